"""Why an attempt ended: judged by its own records first, by the scheduler's word last."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.exit_codes import ExitCode
from cluster.run_folder import AttemptFolder, RunFolder

# Whoever asks for a stop says who it is (RunFolder.request_stop); people are the rest.
STOPPED_BY_SCHEDULER = re.compile(r"nearly up|preempt|SIGUSR1", re.IGNORECASE)


class Cause(StrEnum):
    """What an attempt ended of."""

    DONE = "done"
    STOPPED = "stopped"
    """A person asked for it."""
    PREEMPTED = "preempted"
    """The scheduler took the nodes back: another job's turn, or the time was up."""
    HARDWARE = "hardware"
    """A node, or its view of the storage, is to blame."""
    NETWORK = "network"
    """The way between nodes is to blame."""
    OUT_OF_MEMORY = "out_of_memory"
    """Of the GPU, the node or the job."""
    USER_ERROR = "user_error"
    """Only a person can mend it: the recipe, the code, a full disk."""
    HANG = "hang"
    """Ranks lived and did not go on."""
    NO_PROGRESS = "no_progress"
    """Attempts that bring no new checkpoint: `decide` finds it over several of them."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an attempt ended of, and who or what says so."""

    cause: Cause
    node: str | None = None
    """The one to blame or, where none is, the one that the evidence is from."""
    rank: int | None = None
    evidence: str
    """The line that says so, as it was found, and where."""


@dataclass(frozen=True, kw_only=True)
class SchedulerFacts:
    """What a scheduler knows of the job that an attempt ran in."""

    state: str | None = None
    """As SLURM spells it: NODE_FAIL, TIMEOUT, PREEMPTED, OUT_OF_MEMORY, CANCELLED …"""
    hosts: tuple[str, ...] = ()
    """The nodes of the job, the first node first, as the agents' records name them."""
    down_hosts: tuple[str, ...] = ()
    """Those of them that the scheduler takes for dead."""
    output: tuple[str, ...] = ()
    """The last lines that the job itself printed: the script's, srun's and slurmstepd's."""


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
    attempt, facts = run.attempt(attempt_number), facts or SchedulerFacts()
    records = sorted(attempt.node_records(), key=lambda record: record["ended"])
    missing = [host for host in facts.hosts if not attempt.node_record(host).exists()]
    witnesses = (
        _ended_well(records, missing, run, facts),
        _hang(records),
        _stop(run, facts),
        _missing_nodes(records, missing, facts),
        _exit_codes(attempt, records),
        _scheduler(facts),
        _launcher(code),
    )
    unheard = f"no node left a record in {attempt.root}, and nobody says why"
    return next(
        (verdict for found in witnesses for verdict in found),
        Verdict(cause=Cause.UNKNOWN, evidence=unheard),
    )


def _ended_well(
    records: Sequence[dict[str, Any]], missing: Sequence[str], run: RunFolder, facts: SchedulerFacts
) -> Iterator[Verdict]:
    codes = {record["exit_code"] for record in records}
    if not codes or missing or codes - {ExitCode.DONE, ExitCode.STOPPED}:
        return
    if ExitCode.STOPPED not in codes:
        yield Verdict(cause=Cause.DONE, evidence="every rank ended with exit code 0")
    yield from _stop(run, facts)
    yield Verdict(cause=Cause.STOPPED, evidence="every rank ended with exit code 85")


def _hang(records: Sequence[dict[str, Any]]) -> Iterator[Verdict]:
    """What an agent saw: ranks that live, and whose heartbeats stand still."""
    for record in records:
        hang = record.get("hang")
        if hang:
            ranks = ", ".join(map(str, hang["ranks"]))
            evidence = f"rank {ranks} stood still in {hang['phase']}; stacks in {hang['stacks']}"
            yield Verdict(
                cause=Cause.HANG,
                node=record["host"],
                rank=min(hang["ranks"], default=None),
                evidence=evidence,
            )


def _stop(run: RunFolder, facts: SchedulerFacts) -> Iterator[Verdict]:
    """Whoever asked for a stop got it, however the ranks then ended."""
    if run.stop_request.exists():
        reason = run.stop_request.read_text().strip()
        taken = STATES.get(facts.state or "") == Cause.PREEMPTED
        by_scheduler = taken or STOPPED_BY_SCHEDULER.search(reason)
        cause = Cause.PREEMPTED if by_scheduler else Cause.STOPPED
        yield Verdict(cause=cause, evidence=f"{reason} ({run.stop_request.name})")


def _missing_nodes(
    records: Sequence[dict[str, Any]], missing: Sequence[str], facts: SchedulerFacts
) -> Iterator[Verdict]:
    """Where some nodes tell how they ended, one that does not has died with its agent."""
    dead = [host for host in missing if host in facts.down_hosts] or missing
    if records and dead:
        evidence = f"{dead[0]} left no record of how it ended, {records[0]['host']} did"
        yield Verdict(cause=Cause.HARDWARE, node=dead[0], evidence=evidence)


def _exit_codes(attempt: AttemptFolder, records: Sequence[dict[str, Any]]) -> Iterator[Verdict]:
    """What the earliest bad end says by itself."""
    for record in records:
        number = record["first_failed_rank"]
        for rank in record["ranks"]:
            if rank["rank"] == number:
                where = f"{attempt.node_record(record['host']).name}"
                yield Verdict(
                    cause=CODES.get(rank["exit_code"], Cause.UNKNOWN),
                    node=record["host"],
                    rank=number,
                    evidence=f"rank {number} {_how_it_ended(rank)} ({where})",
                )


def _scheduler(facts: SchedulerFacts) -> Iterator[Verdict]:
    if facts.state in STATES:
        yield Verdict(
            cause=STATES[facts.state],
            node=next(iter(facts.down_hosts), None),
            evidence=f"the scheduler says {facts.state}",
        )


def _launcher(code: int | None) -> Iterator[Verdict]:
    if code is not None and code != ExitCode.RETRY_ELSEWHERE:  # which may be for want of a record
        evidence = f"exit code {code}, and no rank was started"
        yield Verdict(cause=CODES.get(code, Cause.UNKNOWN), evidence=evidence)


def _how_it_ended(rank: dict[str, Any]) -> str:
    if rank["signal"]:
        return f"was ended by {rank['signal']}"
    return f"ended with exit code {rank['exit_code']}"
