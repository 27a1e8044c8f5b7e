"""What a job's script asks of the launcher: open an attempt, end it, queue the job again."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.exit_codes import ExitCode, MachineFault
from cluster.rendezvous import expand_hosts, slurm_node
from cluster.run_folder import RunFolder, read_json, write_json
from cluster.slurm.commands import NoAnswer, Refused, own_job, requeue
from cluster.slurm.excluded import exclude, excluded_nodes, leave_enough
from cluster.slurm.nodes import down_nodes, nodes_of
from cluster.slurm.queue import ask_now
from cluster.slurm.queue_time import queued_at
from cluster.state import begin_attempt, end_attempt, end_run, summed_up
from cluster.verdict.restart import Decision
from cluster.verdict.verdict import Cause, SchedulerFacts
from launcher.slurm.site import SlurmConfig
from launcher.slurm.submit import queue_run, recipe_of

OUTPUT_LINES = 50


def note_own_job(run: RunFolder, environment: Mapping[str, str] = os.environ) -> None:
    """Record the job that a run was frozen in, if it was in one: a script was typed.

    From here on SLURM is asked what becomes of it, also before its first attempt.
    """
    if job := own_job(environment):
        queued = {"number": job, "submitted": time.time()}
        write_json(run.state, {**read_json(run.state), "slurm_job": queued})


def begin(run: RunFolder, environment: Mapping[str, str] = os.environ) -> int:
    """Open the next attempt, in the job that we are in; its number.

    MachineFault if SLURM has queued the job again by itself, and another attempt would not help.
    """
    job = own_job(environment)
    if job is None:
        return begin_attempt(run, backend="other")
    attempts = read_json(run.state)["attempts"]
    if attempts and attempts[-1].get("job") == job and "ended" not in attempts[-1]:
        decision = _end_cut_off(run, attempts[-1])
        if not decision.restart:
            end_run(run, attempts[-1]["number"], ExitCode.RETRY_ELSEWHERE)
            raise MachineFault(decision.why)
    node = slurm_node({"SLURM_NODEID": "0", **environment})
    hosts = expand_hosts(environment["SLURM_JOB_NODELIST"])
    output = _output_file(run, environment)
    return begin_attempt(
        run,
        backend="slurm",
        job=job,
        hosts=hosts,
        ranks_per_node=node.ranks,
        queued=queued_at(job),  # null: SLURM gave no answer, and the queue stays unknown
        printed_bytes=output.stat().st_size if output else 0,  # by the job before this attempt
    )


def end(run: RunFolder, number: int) -> tuple[str, int]:
    """Record how an attempt ended; what the script is to do next, and the attempt's exit code.

    `again`: another attempt on the same nodes. `requeue`: on others, or when there is room.
    """
    _look_afresh(run.attempt(number).root)
    code = summed_up(run, number)
    facts = _facts(run, number, os.environ)
    decision = end_attempt(run, number, code, facts)
    _say(decision.why)
    if not decision.restart:
        _say(f"{run.root.name} is {end_run(run, number, code)}")
        return "over", code
    if decision.without:
        hours = (recipe_of(run).slurm or SlurmConfig()).exclude_h
        exclude(run, decision.without, hours=hours, why=decision.why)
    return _where(decision), code


def requeue_own_job(run: RunFolder, environment: Mapping[str, str] = os.environ) -> int:
    """Queue the job that we are in again; where the site forbids that, a new one.

    SLURM may have done it though its answer was lost.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM ends us first, and we have more to ask
    excluded, job = excluded_nodes(read_json(run.state)), own_job(environment)
    assert job is not None
    needed, partition = int(environment["SLURM_JOB_NUM_NODES"]), environment["SLURM_JOB_PARTITION"]
    try:
        left_out = leave_enough(excluded.now, nodes_of(partition), needed) if excluded.now else []
        for refused in requeue(job, excluded=left_out, expired=excluded.expired):
            _say(f"queued again, but SLURM did not take {refused}")
    except (Refused, NoAnswer) as error:
        if isinstance(error, NoAnswer) and _is_ended(job):
            return ExitCode.DONE
        _say(f"job {job} is not queued again, so a new one is: {error}")
        _say(f"queued as job {queue_run(recipe_of(run), run)}")
    return ExitCode.DONE


def _is_ended(job: str) -> bool:
    """Whether SLURM ends our job, as it does when it queues it again; False if it does not say."""
    with contextlib.suppress(NoAnswer):
        ours = ask_now().get(job)
        return ours is not None and ours.state != "RUNNING"
    return False


def _end_cut_off(run: RunFolder, attempt: dict[str, Any]) -> Decision:
    """Judge the attempt in which SLURM took the job off its nodes, and queued it again."""
    lost = _down(attempt["hosts"])
    if lost:
        run.clear_stop_request()  # SLURM ended the others for the sake of the lost node
    facts = SchedulerFacts(
        state="NODE_FAIL" if lost else "PREEMPTED",
        hosts=tuple(attempt["hosts"]),
        down_hosts=lost,
    )
    return end_attempt(run, attempt["number"], summed_up(run, attempt["number"]), facts)


def _where(decision: Decision) -> str:
    elsewhere = decision.without or decision.cause == Cause.PREEMPTED
    return "requeue" if elsewhere else "again"


def _facts(run: RunFolder, number: int, environment: Mapping[str, str]) -> SchedulerFacts:
    """What SLURM and the job's own output say; nothing outside a job."""
    if "SLURM_JOB_ID" not in environment:
        return SchedulerFacts()
    hosts = expand_hosts(environment["SLURM_JOB_NODELIST"])
    codes = {record["host"]: record["exit_code"] for record in run.attempt(number).node_records()}
    in_doubt = any(codes.get(host) not in (ExitCode.DONE, ExitCode.STOPPED) for host in hosts)
    return SchedulerFacts(
        state="PREEMPTED" if _agents_were_stopped(run, in_doubt=in_doubt) else None,
        hosts=tuple(hosts),
        down_hosts=_down(hosts) if in_doubt else (),
        output=_output(run, number, environment),
    )


def _down(hosts: Sequence[str]) -> tuple[str, ...]:
    """Those that SLURM has lost; none if it does not answer: the nodes' own records must do."""
    try:
        return tuple(down_nodes(hosts))
    except (NoAnswer, Refused) as error:
        _say(f"nobody knows which nodes are lost: {error}")
        return ()


def _agents_were_stopped(run: RunFolder, *, in_doubt: bool) -> bool:
    """Whether SLURM told the agents alone to end: a preemption, for a scancel ends the script too.

    If not all nodes have saved, it was srun: it ends the others for the sake of one that has
    failed. That is no stop which anybody asked for, and it is forgotten.
    """
    stop = run.stop_request
    if not (stop.exists() and stop.read_text().startswith(signal.SIGTERM.name)):
        return False
    if in_doubt:
        run.clear_stop_request()
    return not in_doubt


def _look_afresh(folder: Path) -> None:
    """Let NFS show what other nodes wrote there: it does once this one writes (RFC 1813, 2.6)."""
    probe = folder / ".look-afresh.tmp"
    probe.touch()
    probe.unlink()


def _output(run: RunFolder, number: int, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The last lines that the job has printed since an attempt began.

    What came before explains another attempt's end, such as that the job was queued again.
    """
    path = _output_file(run, environment)
    if path is None:
        return ()
    attempts = read_json(run.state)["attempts"]
    (before,) = (a.get("printed_bytes", 0) for a in attempts if a["number"] == number)
    with path.open("rb") as file:
        file.seek(before if before <= path.stat().st_size else 0)
        return tuple(file.read().decode(errors="replace").splitlines()[-OUTPUT_LINES:])


def _output_file(run: RunFolder, environment: Mapping[str, str]) -> Path | None:
    """Where the job prints, if that is where its script says."""
    typed = Path(environment.get("SLURM_SUBMIT_DIR", "."))
    ours, named = own_job(environment), environment["SLURM_JOB_ID"]  # %j is the latter
    paths = (run.root / f"slurm-{ours}.out", typed / f"slurm-{named}.out")
    return next((path for path in paths if path.is_file()), None)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
