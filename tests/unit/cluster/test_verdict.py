"""Why an attempt ended: its own records are believed before the scheduler."""

import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, read_json, write_json
from cluster.state import begin_attempt, end_attempt, end_run, new_state
from cluster.verdict import Cause, SchedulerFacts, Verdict, judge


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run in its first attempt, of which nothing is recorded yet."""
    made = RunFolder(tmp_path / "run")
    write_json(made.state, new_state({}))
    begin_attempt(made, backend="slurm")
    return made


def record(run: RunFolder, host: str, code: int, **ranks: int) -> None:
    """A node's record: `r3=-9` is rank 3, killed; the first one not ended by the agent is first."""
    codes = {int(name[1:]): code for name, code in ranks.items()}
    bad = [rank for rank, code in codes.items() if code not in (0, 85, -signal.SIGTERM)]
    write_json(
        run.attempt(0).node_record(host),
        {
            "host": host,
            "ended": float(len(run.attempt(0).node_records())),
            "exit_code": code,
            "first_failed_rank": bad[0] if bad else None,
            "log_tail": [],
            "ranks": [
                {
                    "rank": rank,
                    "exit_code": code if code >= 0 else None,
                    "signal": signal.Signals(-code).name if code < 0 else None,
                }
                for rank, code in codes.items()
            ],
        },
    )


def test_ranks_that_all_end_well_are_done(run: RunFolder) -> None:
    record(run, "n1", 0, r0=0, r1=0)
    assert judge(run, 0).cause == Cause.DONE


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("letterpress stop", Cause.STOPPED),
        ("Ctrl-C in the launcher", Cause.STOPPED),
        ("SIGTERM to the agent on n1", Cause.STOPPED),
        ("SLURM: the time of job 12 is nearly up", Cause.PREEMPTED),
        ("SIGUSR1 to the agent on n1", Cause.PREEMPTED),
    ],
)
def test_who_asked_for_a_stop_decides_what_it_is(run: RunFolder, reason: str, cause: Cause) -> None:
    record(run, "n1", 85, r0=85)
    run.request_stop(reason)
    assert judge(run, 0) == Verdict(cause=cause, evidence=f"{reason} (STOP)")


def test_a_stop_that_ends_in_a_kill_is_a_stop(run: RunFolder) -> None:
    run.request_stop("Ctrl-C in the launcher")
    record(run, "n1", 75, r0=-9, r1=-9)
    assert judge(run, 0).cause == Cause.STOPPED
    assert judge(run, 0, SchedulerFacts(state="PREEMPTED")).cause == Cause.PREEMPTED


def test_a_killed_rank_is_named_though_nobody_knows_why(run: RunFolder) -> None:
    record(run, "n1", 75, r0=-15, r1=-9)
    verdict = judge(run, 0)
    assert (verdict.cause, verdict.node, verdict.rank) == (Cause.UNKNOWN, "n1", 1)
    assert verdict.evidence == "rank 1 was ended by SIGKILL (node-n1.json)"


@pytest.mark.parametrize(
    ("code", "cause"),
    [(2, Cause.USER_ERROR), (93, Cause.USER_ERROR), (75, Cause.HARDWARE), (1, Cause.UNKNOWN)],
)
def test_a_rank_s_own_exit_code_counts(run: RunFolder, code: int, cause: Cause) -> None:
    record(run, "n1", code, r0=0, r1=code)
    verdict = judge(run, 0, SchedulerFacts(state="NODE_FAIL", down_hosts=("n9",)))
    assert verdict == Verdict(
        cause=cause,
        node="n1",
        rank=1,
        evidence=f"rank 1 ended with exit code {code} (node-n1.json)",
    )


def test_a_node_that_left_no_record_is_to_blame(run: RunFolder) -> None:
    record(run, "n1", 75, r0=-15)
    verdict = judge(run, 0, SchedulerFacts(hosts=("n1", "n2")))
    assert (verdict.cause, verdict.node) == (Cause.HARDWARE, "n2")


def test_a_node_that_is_known_to_be_dead_is_named_among_those_that_are_silent(
    run: RunFolder,
) -> None:
    record(run, "n1", 75, r0=-15)
    facts = SchedulerFacts(hosts=("n1", "n2", "n3"), down_hosts=("n3",))
    assert judge(run, 0, facts).node == "n3"


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("NODE_FAIL", Cause.HARDWARE),
        ("TIMEOUT", Cause.PREEMPTED),
        ("CANCELLED", Cause.STOPPED),
        ("OUT_OF_MEMORY", Cause.OUT_OF_MEMORY),
        ("FAILED", Cause.UNKNOWN),
        (None, Cause.UNKNOWN),
    ],
)
def test_the_scheduler_is_believed_where_no_record_is(
    run: RunFolder, state: str | None, cause: Cause
) -> None:
    assert judge(run, 0, SchedulerFacts(state=state)).cause == cause


def test_a_hang_that_the_agent_saw_is_one(run: RunFolder) -> None:
    record(run, "n2", 75, r0=-9, r1=-9)
    path = run.attempt(0).node_record("n2")
    hang = {"ranks": [1], "phase": "save", "stacks": "stacks.txt"}
    write_json(path, read_json(path) | {"hang": hang})
    verdict = judge(run, 0)
    assert (verdict.cause, verdict.node, verdict.rank) == (Cause.HANG, "n2", 1)
    assert verdict.evidence == "rank 1 stood still in save; stacks in stacks.txt"


def test_an_attempt_that_started_no_rank_is_judged_by_the_launcher_s_code(run: RunFolder) -> None:
    assert judge(run, 0, code=2).cause == Cause.USER_ERROR
    assert judge(run, 0, code=75).cause == Cause.UNKNOWN


def test_verdict_decision_and_step_lie_in_the_state_of_the_run(run: RunFolder) -> None:
    record(run, "n1", 75, r0=-9)
    write_json(run.checkpoint(40) / "manifest.json", {"files": {}})
    decision = end_attempt(run, 0, ExitCode.RETRY_ELSEWHERE)
    state = read_json(run.state)
    (attempt,) = state["attempts"]
    assert attempt["step"] == 40
    assert attempt["verdict"] == asdict(judge(run, 0))
    assert attempt["decision"] == asdict(decision)
    assert decision.restart
    assert state["outcome"] is None  # whoever does not act on the decision ends the run
    assert end_run(run, ExitCode.RETRY_ELSEWHERE) == "failed"
