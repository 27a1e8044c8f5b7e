"""Why an attempt ended: its own records are believed before the scheduler."""

import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, read_json, write_json, write_text
from cluster.state import begin_attempt, end_attempt, end_run, new_state
from cluster.verdict.judge import judge
from cluster.verdict.verdict import Cause, SchedulerFacts, Verdict


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run in its first attempt, of which nothing is recorded yet."""
    made = RunFolder(tmp_path / "run")
    made.root.mkdir()
    made.recipe.write_text("{}")
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
    assert verdict.evidence == "ended by SIGKILL (node-n1.json)"


@pytest.mark.parametrize("code", [ExitCode.BAD_INPUT, ExitCode.DO_NOT_RESTART])
def test_a_rank_s_clear_code_is_believed_before_the_scheduler(run: RunFolder, code: int) -> None:
    record(run, "n1", code, r0=0, r1=code)
    assert judge(run, 0, SchedulerFacts(state="NODE_FAIL", down_hosts=("n9",))) == Verdict(
        cause=Cause.USER_ERROR, node="n1", rank=1, evidence=f"exit code {code} (node-n1.json)"
    )


@pytest.mark.parametrize(
    ("code", "cause"), [(ExitCode.RETRY_ELSEWHERE, Cause.HARDWARE), (1, Cause.UNKNOWN)]
)
def test_a_code_that_may_be_a_symptom_is_believed_after_it(
    run: RunFolder, code: int, cause: Cause
) -> None:
    record(run, "n1", code, r0=0, r1=code)
    assert judge(run, 0).cause == cause
    dead = judge(run, 0, SchedulerFacts(state="NODE_FAIL", down_hosts=("n9",)))
    assert (dead.cause, dead.node) == (Cause.HARDWARE, "n9")


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


def test_the_only_node_is_to_blame_if_the_scheduler_has_lost_it_and_it_left_no_record(
    run: RunFolder,
) -> None:
    facts = SchedulerFacts(hosts=("n1",), down_hosts=("n1",))
    assert judge(run, 0, facts, code=ExitCode.RETRY_ELSEWHERE) == Verdict(
        cause=Cause.HARDWARE,
        node="n1",
        evidence="n1 left no record of how it ended, and the scheduler has lost it",
    )


def test_a_killed_rank_of_a_node_that_the_scheduler_has_lost_is_the_node_s_fault(
    run: RunFolder,
) -> None:
    record(run, "n1", 75, r0=-9)
    verdict = judge(run, 0, SchedulerFacts(hosts=("n1",), down_hosts=("n1",)))
    assert (verdict.cause, verdict.node) == (Cause.HARDWARE, "n1")


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
    hang = {"ranks": [17], "phase": "save", "hosts": ["n3"]}
    write_json(path, read_json(path) | {"hang": hang})
    verdict = judge(run, 0)
    assert (verdict.cause, verdict.node, verdict.rank) == (Cause.HANG, "n3", 17)
    assert verdict.evidence == "rank 17 stood still in save (node-n2.json)"
    write_json(path, read_json(path) | {"hang": {"ranks": [], "phase": "train"}})
    assert judge(run, 0).evidence == "every rank stood still in train (node-n2.json)"


def test_an_attempt_that_started_no_rank_is_judged_by_the_launcher_s_code(run: RunFolder) -> None:
    assert judge(run, 0, code=2).cause == Cause.USER_ERROR
    assert judge(run, 0, code=75).cause == Cause.UNKNOWN


@pytest.mark.parametrize(
    ("hosts", "cause", "node"), [(["n2"], Cause.HARDWARE, "n2"), ([], Cause.USER_ERROR, None)]
)
def test_what_preflight_found_is_believed_before_the_nodes_that_did_not_start(
    run: RunFolder, hosts: list[str], cause: Cause, node: str | None
) -> None:
    check = {"name": "GPUs", "line": "n2: 7 of 8 are there", "hosts": hosts}
    write_json(
        run.attempt(0).node_record("n1"),
        {"host": "n1", "ended": 1.0, "exit_code": 75, "ranks": [], "failed_check": check},
    )
    verdict = judge(run, 0, SchedulerFacts(hosts=("n1", "n2")))
    assert (verdict.cause, verdict.node) == (cause, node)
    assert verdict.evidence == "GPUs: n2: 7 of 8 are there (preflight.json)"


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
    assert end_run(run, 0, ExitCode.RETRY_ELSEWHERE) == "failed"


def say(run: RunFolder, rank: int, *lines: str) -> None:
    """What a rank has printed."""
    write_text(run.attempt(0).rank_log(rank), "".join(f"{line}\n" for line in lines))


def test_the_cause_is_believed_before_what_others_saw_of_it(run: RunFolder) -> None:
    record(run, "n1", 93, r0=1)
    record(run, "n2", 93, r8=1)
    say(run, 0, "RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.2]:28048")
    say(run, 8, "RuntimeError: CUDA error: uncorrectable ECC error encountered", "frame #0: c10")
    verdict = judge(run, 0)
    assert (verdict.cause, verdict.node, verdict.rank) == (Cause.HARDWARE, "n2", 8)
    line = "RuntimeError: CUDA error: uncorrectable ECC error encountered (rank-0008.log)"
    assert verdict.evidence == line


def test_of_two_crashes_the_one_that_came_first_counts(run: RunFolder) -> None:
    record(run, "n2", 93, r8=1)
    record(run, "n1", 93, r0=1)
    say(run, 0, "RuntimeError: the queue is closed")
    say(run, 8, "KeyError: 'lines'")
    assert judge(run, 0).rank == 8


def test_what_a_run_got_over_is_not_why_it_ended(run: RunFolder) -> None:
    record(run, "n1", 75, r0=-9)
    say(run, 0, "torch.OutOfMemoryError: CUDA out of memory", "step 7 loss 0.2")
    verdict = judge(run, 0)
    assert (verdict.cause, verdict.evidence) == (Cause.UNKNOWN, "ended by SIGKILL (node-n1.json)")


def test_a_rank_that_is_killed_for_memory_is_known_by_the_kernel_s_count(run: RunFolder) -> None:
    record(run, "n1", 75, r0=-9)
    path = run.attempt(0).node_record("n1")
    write_json(path, read_json(path) | {"oom_kills": 1})
    assert judge(run, 0).cause == Cause.OUT_OF_MEMORY


def test_a_log_without_a_record_is_of_the_node_whose_place_it_has(run: RunFolder) -> None:
    record(run, "n1", 75, r0=-15, r1=-15)
    say(run, 3, "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.")
    verdict = judge(run, 0, SchedulerFacts(hosts=("n1", "n2")))
    assert (verdict.node, verdict.rank) == ("n2", 3)


def test_the_job_s_own_output_names_a_node(run: RunFolder) -> None:
    facts = SchedulerFacts(output=("srun: error: Node failure on gpu-7",))
    verdict = judge(run, 0, facts)
    assert (verdict.cause, verdict.node) == (Cause.HARDWARE, "gpu-7")
    assert verdict.evidence == "srun: error: Node failure on gpu-7 (the job's output)"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("srun: unrecognized option '--container-image=x.sqsh'", Cause.USER_ERROR),
        ("srun: error: Unable to create step for job 7: Invalid GRES", Cause.USER_ERROR),
        (
            "srun: error: Unable to confirm allocation for job 7: Socket timed out on send/recv",
            Cause.NETWORK,
        ),
        (
            "srun: error: Unable to create step for job 7: Unable to contact slurm controller",
            Cause.NETWORK,
        ),
    ],
)
def test_why_srun_started_no_agent_stands_in_the_job_s_output(
    run: RunFolder, line: str, cause: Cause
) -> None:
    verdict = judge(run, 0, SchedulerFacts(hosts=("n1",), output=(line,)))
    assert verdict == Verdict(cause=cause, evidence=f"{line} (the job's output)")


@pytest.mark.parametrize(
    ("hosts", "nodes", "cause"),
    [
        (("n1", "n2", "n3"), ("n2",), Cause.HARDWARE),
        (("n1", "n2", "n3"), ("n2", "n3"), Cause.USER_ERROR),
        (("n2",), ("n2",), Cause.USER_ERROR),
    ],
)
def test_a_node_without_the_environment_is_to_blame_and_several_are_the_user_s(
    run: RunFolder, hosts: tuple[str, ...], nodes: tuple[str, ...], cause: Cause
) -> None:
    lacks = "slurmstepd: error: execve(): /shared/venv/bin/python: No such file or directory"
    exited = [f"srun: error: {node}: task 1: Exited with exit code 2" for node in nodes]
    verdict = judge(run, 0, SchedulerFacts(hosts=hosts, output=(lacks, *exited)))
    node = "n2" if cause == Cause.HARDWARE else None
    assert verdict == Verdict(cause=cause, node=node, evidence=f"{lacks} (the job's output)")


def test_our_own_line_means_what_its_exit_code_says(run: RunFolder) -> None:
    say(run, 0, "error: no port from 20000 to 29000 is free")
    record(run, "n1", 75, r0=75)
    assert judge(run, 0).cause == Cause.HARDWARE
    record(run, "n1", 2, r0=2)
    assert judge(run, 0).cause == Cause.USER_ERROR


def test_a_lost_node_that_no_line_names_is_a_silent_one_not_the_one_that_speaks(
    run: RunFolder,
) -> None:
    record(run, "n1", 75, r0=-15)
    lost = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-22T04:00:00 DUE TO NODE FAILURE"
    assert judge(run, 0, SchedulerFacts(hosts=("n1", "n2"), output=(lost,))).node == "n2"
