"""Why an attempt ended: judged by its own records first, by the scheduler's word last."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder
from cluster.verdict.evidence import Evidence, gather
from cluster.verdict.log_rules import Weight
from cluster.verdict.verdict import Cause, SchedulerFacts, Verdict

LINE_LETTERS = 300  # of a line that is cited
# Whoever asks for a stop says who it is (RunFolder.request_stop); people are the rest.
STOPPED_BY_SCHEDULER = re.compile(r"nearly up|preempt|SIGUSR1", re.IGNORECASE)
# slurmstepd, when what srun is to start is not on a node; srun, of the node whose task ended so.
NOT_THERE = re.compile(r"slurmstepd\S*: error: execve\(\): .*")
TASK_FAILED = re.compile(r"srun: error: ([^\s:\[]+): task \d+: Exited with exit code")
STATES = {
    "PREEMPTED": Cause.PREEMPTED,
    "TIMEOUT": Cause.PREEMPTED,
    "DEADLINE": Cause.PREEMPTED,
    "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY,
    "NODE_FAIL": Cause.HARDWARE,
    "BOOT_FAIL": Cause.HARDWARE,
    "CANCELLED": Cause.STOPPED,
}
CODES: dict[int | None, Cause] = {
    ExitCode.DONE: Cause.DONE,
    ExitCode.BAD_INPUT: Cause.USER_ERROR,
    ExitCode.RETRY_ELSEWHERE: Cause.HARDWARE,
    ExitCode.STOPPED: Cause.STOPPED,
    ExitCode.DO_NOT_RESTART: Cause.USER_ERROR,
}


def judge(
    run: RunFolder,
    attempt_number: int,
    facts: SchedulerFacts | None = None,
    *,
    code: int | None = None,
) -> Verdict:
    """Why an attempt of `run` has ended; the first witness that knows it is believed.

    `code` is what the launcher saw itself, for attempts that ended before any rank was started.
    """
    evidence = gather(run, attempt_number, facts or SchedulerFacts(), code)
    for witness in WITNESSES:
        for verdict in witness(evidence):
            return verdict
    nobody = f"no node left a record in {run.attempt(attempt_number).root}, and nobody says why"
    return Verdict(cause=Cause.UNKNOWN, evidence=nobody)


def _ended_well(evidence: Evidence) -> Iterator[Verdict]:
    codes = {record["exit_code"] for record in evidence.records}
    if not codes or evidence.missing or codes - {ExitCode.DONE, ExitCode.STOPPED}:
        return
    if ExitCode.STOPPED not in codes:
        yield Verdict(cause=Cause.DONE, evidence="every rank ended with exit code 0")
    yield from _stop(evidence)
    yield Verdict(cause=Cause.STOPPED, evidence="every rank ended with exit code 85")


def _preflight(evidence: Evidence) -> Iterator[Verdict]:
    """What was wrong before any rank started."""
    for record in evidence.records:
        check = record.get("failed_check")
        if check:
            yield Verdict(
                cause=Cause.HARDWARE if check["hosts"] else Cause.USER_ERROR,
                node=next(iter(check["hosts"]), None),
                evidence=f"{check['name']}: {check['line']} (preflight.json)",
            )


def _hang(evidence: Evidence) -> Iterator[Verdict]:
    """What an agent saw: ranks that live, and whose heartbeats stand still."""
    for record in evidence.records:
        hang = record.get("hang")
        if hang:
            ranks = ", ".join(map(str, hang["ranks"]))
            who = f"rank {ranks}" if ranks else "every rank"
            yield Verdict(
                cause=Cause.HANG,
                node=next(iter(hang.get("hosts", ())), record["host"]),
                rank=min(hang["ranks"], default=None),
                evidence=f"{who} stood still in {hang['phase']} (node-{record['host']}.json)",
            )


def _not_there(evidence: Evidence) -> Iterator[Verdict]:
    """What a node lacks that all should have, such as the environment: no agent was there to tell.

    Of several nodes that lack it none is to blame.
    """
    output = "\n".join(evidence.facts.output)
    if found := NOT_THERE.search(output):
        nodes = set(TASK_FAILED.findall(output))
        is_one = len(nodes) == 1 < len(evidence.facts.hosts)
        yield Verdict(
            cause=Cause.HARDWARE if is_one else Cause.USER_ERROR,
            node=nodes.pop() if is_one else None,
            evidence=f"{found[0]} (the job's output)",
        )


def _killed_for_memory(evidence: Evidence) -> Iterator[Verdict]:
    """What an agent read in its cgroup: the kernel leaves no word in a rank's own log."""
    for record, rank in evidence.first_failed():
        if record.get("oom_kills") and rank["signal"] == "SIGKILL":
            yield _by_end(record, rank, Cause.OUT_OF_MEMORY)


def _told_the_cause(evidence: Evidence) -> Iterator[Verdict]:
    yield from _told(evidence, Weight.CAUSE, Weight.CRASH)


def _told_of_others(evidence: Evidence) -> Iterator[Verdict]:
    yield from _told(evidence, Weight.LINK, Weight.WAIT, Weight.PARTED)


def _told(evidence: Evidence, *weights: Weight) -> Iterator[Verdict]:
    for weight in weights:
        for log, finding in evidence.told:
            cause = finding.rule.cause or CODES.get(log.exit_code)
            if finding.rule.weight == weight and cause not in (None, Cause.DONE, Cause.STOPPED):
                guilty = evidence.suspects() if cause == Cause.HARDWARE else ()
                yield Verdict(
                    cause=cause,
                    node=finding.node or log.node or next(iter(guilty), None),
                    rank=log.rank,
                    evidence=f"{finding.line[:LINE_LETTERS]} ({log.name})",
                )


def _stop(evidence: Evidence) -> Iterator[Verdict]:
    """Whoever asked for a stop got it, however the ranks then ended."""
    request = evidence.run.stop_request
    if request.exists():
        reason = request.read_text().strip()
        taken = _cause_of_state(evidence.facts) == Cause.PREEMPTED
        by_scheduler = taken or STOPPED_BY_SCHEDULER.search(reason)
        cause = Cause.PREEMPTED if by_scheduler else Cause.STOPPED
        yield Verdict(cause=cause, evidence=f"{reason} ({request.name})")


def _clear_codes(evidence: Evidence) -> Iterator[Verdict]:
    """Ranks that said by their code that they must not be run again."""
    for record, rank in evidence.first_failed():
        if rank["exit_code"] in (ExitCode.BAD_INPUT, ExitCode.DO_NOT_RESTART):
            yield _by_end(record, rank, Cause.USER_ERROR)


def _missing_nodes(evidence: Evidence) -> Iterator[Verdict]:
    """A node that does not tell how it ended: the scheduler has lost it too, or others tell."""
    missing, down = evidence.missing, evidence.facts.down_hosts
    lost = [host for host in missing if host in down]
    if lost:
        words = f"{lost[0]} left no record of how it ended, and the scheduler has lost it"
        yield Verdict(cause=Cause.HARDWARE, node=lost[0], evidence=words)
    elif evidence.records and missing:
        others = evidence.records[0]["host"]
        words = f"{missing[0]} left no record of how it ended, {others} did"
        yield Verdict(cause=Cause.HARDWARE, node=missing[0], evidence=words)


def _scheduler(evidence: Evidence) -> Iterator[Verdict]:
    facts = evidence.facts
    cause = _cause_of_state(facts)
    if cause:
        yield Verdict(
            cause=cause,
            node=next(iter(facts.down_hosts), None),
            evidence=f"the scheduler says {facts.state}",
        )


def _silent_ends(evidence: Evidence) -> Iterator[Verdict]:
    """Ranks that a signal ended in the middle of their work: others only saw them go."""
    speakers = {log.rank for log, _ in evidence.told}
    for record, rank in evidence.first_failed():
        if rank["signal"] not in (None, "SIGTERM") and rank["rank"] not in speakers:
            # Of a node that the scheduler has lost, what ended it may have left its agent a moment.
            is_lost = record["host"] in evidence.facts.down_hosts
            yield _by_end(record, rank, Cause.HARDWARE if is_lost else Cause.UNKNOWN)


def _codes(evidence: Evidence) -> Iterator[Verdict]:
    for record, rank in evidence.first_failed():
        yield _by_end(record, rank, CODES.get(rank["exit_code"], Cause.UNKNOWN))


def _launcher(evidence: Evidence) -> Iterator[Verdict]:
    code = evidence.code
    if code is not None and code != ExitCode.RETRY_ELSEWHERE:  # which may be for want of a record
        words = f"exit code {code}, and no agent left a record"
        yield Verdict(cause=CODES.get(code, Cause.UNKNOWN), evidence=words)


WITNESSES: tuple[Callable[[Evidence], Iterator[Verdict]], ...] = (
    _ended_well,
    _preflight,
    _hang,
    _not_there,
    _killed_for_memory,
    _told_the_cause,
    _stop,
    _clear_codes,
    _missing_nodes,
    _scheduler,
    _silent_ends,
    _told_of_others,
    _codes,
    _launcher,
)


def _cause_of_state(facts: SchedulerFacts) -> Cause | None:
    """Of the state's first word: sacct writes `CANCELLED by 1000`."""
    return STATES.get((facts.state or "").partition(" ")[0])


def _by_end(record: dict[str, Any], rank: dict[str, Any], cause: Cause) -> Verdict:
    how = f"ended by {rank['signal']}" if rank["signal"] else f"exit code {rank['exit_code']}"
    if cause == Cause.OUT_OF_MEMORY:
        how += f", and {record['oom_kills']} processes there were killed for memory"
    return Verdict(
        cause=cause,
        node=record["host"],
        rank=rank["rank"],
        evidence=f"{how} (node-{record['host']}.json)",
    )
