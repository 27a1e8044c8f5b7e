"""What a job's script is told after an attempt, and how the job is queued again."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.exit_codes import ExitCode, MachineFault
from cluster.run_folder import RunFolder, read_json, write_json, write_text
from launcher.freeze import freeze
from launcher.recipe import load_slurm_recipe
from launcher.run_state import run_state
from launcher.slurm.job import begin, end, note_own_job, requeue_own_job
from tests.conftest import CHECKOUT
from tests.fake_slurm import FakeSlurm

JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_PARTITION": "main",
    "SLURMD_NODENAME": "n1",
    "SLURM_GPUS_ON_NODE": "1",
}
SHOWN = "JobId=17 JobState=RUNNING ExcNodeList=(null) NodeList=n[1-2]"
FORBIDDEN = "Requested operation not supported on this system for job 17"


@pytest.fixture
def run(
    tmp_path: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunFolder]:
    """A run whose first attempt has begun in job 17 on n1 and n2, of three nodes."""
    for key, value in JOB.items():
        monkeypatch.setenv(key, value)
    fake_slurm.answers("sinfo", "n1|mixed|none\nn2|mixed|none\nn3|idle|none\n")
    scontrol(fake_slurm)
    run = freeze(load_slurm_recipe(CHECKOUT / "recipes" / "mini.yaml"), tmp_path / "mini")
    assert begin(run) == 0
    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def scontrol(fake_slurm: FakeSlurm, requeue: str = "true") -> None:
    """What scontrol does; `requeue` is its script for that."""
    fake_slurm.does(
        "scontrol",
        f'case "$1 $2" in "show hostnames") echo n1 n2;; "show job") echo "{SHOWN}";; '
        f'"requeue 17") {requeue};; esac',
    )


@pytest.fixture
def ended(run: RunFolder) -> Callable[..., None]:
    """Writes the record of a node: its rank's exit code, or the signal that ended it."""

    def write(
        host: str, code: int, *, by: str | None = None, at: float = 1.0, attempt: int = 0
    ) -> None:
        number = int(host[1:]) - 1
        rank: dict[str, Any] = {"rank": number, "exit_code": None if by else code, "signal": by}
        failed = number if by or code not in (ExitCode.DONE, ExitCode.STOPPED) else None
        record = {"ended": at, "exit_code": code, "host": host, "node": number, "ranks": [rank]}
        record |= {"first_failed_rank": failed, "log_tail": []}
        write_json(run.attempt(attempt).node_record(host), record)

    return write


def test_what_becomes_of_a_typed_job_is_known_before_its_first_attempt(
    tmp_path: Path, fake_slurm: FakeSlurm
) -> None:
    run = freeze(load_slurm_recipe(CHECKOUT / "recipes" / "mini.yaml"), tmp_path / "mini-17")
    note_own_job(run, JOB)
    fake_slurm.answers("squeue", "17|RUNNING|None|n1\n")
    assert run_state(run) == "starting"  # it makes its samples


def test_a_run_that_is_frozen_outside_of_a_job_has_none(tmp_path: Path) -> None:
    run = freeze(load_slurm_recipe(CHECKOUT / "recipes" / "mini.yaml"), tmp_path / "mini")
    note_own_job(run, {})
    assert run_state(run) == "new"


def test_a_run_that_is_done_is_over(run: RunFolder, ended: Callable[..., None]) -> None:
    ended("n1", 0)
    ended("n2", 0)
    assert end(run, 0) == ("over", ExitCode.DONE)
    assert read_json(run.state)["outcome"] == "done"


def test_a_killed_rank_is_restarted_on_the_same_nodes(
    run: RunFolder, ended: Callable[..., None]
) -> None:
    ended("n2", ExitCode.RETRY_ELSEWHERE, by="SIGKILL")
    ended("n1", ExitCode.RETRY_ELSEWHERE, by="SIGTERM", at=2.0)
    # srun ended the other node for its sake, whose agent took that for a request.
    run.request_stop("SIGTERM to the agent on n1")
    assert end(run, 0)[0] == "again"
    assert not run.stop_request.exists()
    assert read_json(run.state)["outcome"] is None  # the farm goes on


@pytest.mark.parametrize(
    ("printed_since", "cause"),
    [("", "user_error"), ("srun: error: Node failure on n2\n", "hardware")],
)
def test_what_the_job_printed_before_an_attempt_does_not_explain_its_end(
    run: RunFolder, ended: Callable[..., None], printed_since: str, cause: str
) -> None:
    requeued = "JOB 17 ON n1 CANCELLED AT 2026-11-22T06:10:00 DUE TO JOB REQUEUE"
    output = run.root / "slurm-17.out"
    output.write_text(f"slurmstepd: error: *** {requeued} ***\n")
    number = begin(run)
    output.write_text(output.read_text() + printed_since)
    write_text(run.attempt(number).rank_log(0), "KeyError: 'lines'\n")
    ended("n1", 1, attempt=number)
    ended("n2", 1, attempt=number)
    end(run, number)
    assert read_json(run.state)["attempts"][number]["verdict"]["cause"] == cause


def test_a_node_that_left_no_record_is_left_out(
    run: RunFolder, ended: Callable[..., None], fake_slurm: FakeSlurm
) -> None:
    ended("n1", ExitCode.RETRY_ELSEWHERE, by="SIGABRT")
    assert end(run, 0)[0] == "requeue"
    (entry,) = read_json(run.state)["excluded"]
    assert entry["node"] == "n2"
    assert entry["until"] - entry["since"] == 24 * 3600
    assert requeue_own_job(run) == ExitCode.DONE
    assert "scontrol update JobId=17 ExcNodeList=n2" in fake_slurm.calls()


def test_a_controller_that_is_away_when_a_rank_is_killed_ends_no_run(
    run: RunFolder, ended: Callable[..., None], fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers(
        "sinfo", stderr="slurm_load_node: Unable to contact slurm controller", code=1
    )
    ended("n1", ExitCode.RETRY_ELSEWHERE, by="SIGKILL")
    ended("n2", ExitCode.RETRY_ELSEWHERE, by="SIGTERM", at=2.0)
    assert end(run, 0)[0] == "again"


def test_a_user_error_is_over(run: RunFolder, ended: Callable[..., None]) -> None:
    ended("n1", ExitCode.BAD_INPUT)
    ended("n2", ExitCode.BAD_INPUT)
    assert end(run, 0) == ("over", ExitCode.BAD_INPUT)
    assert read_json(run.state)["outcome"] == "failed"


@pytest.mark.parametrize(
    ("reason", "follows", "outcome"),
    [
        ("letterpress stop", "over", "stopped"),
        ("SLURM: the time of job 17 is nearly up", "requeue", None),
        ("SIGTERM to the agent on n2", "requeue", None),  # preempted, with grace
    ],
)
def test_who_stopped_a_run_decides_whether_it_goes_on(
    run: RunFolder, ended: Callable[..., None], reason: str, follows: str, outcome: str | None
) -> None:
    run.request_stop(reason)
    ended("n1", ExitCode.STOPPED)
    ended("n2", ExitCode.STOPPED)
    assert end(run, 0) == (follows, ExitCode.STOPPED)
    assert read_json(run.state)["outcome"] == outcome


def test_a_job_that_slurm_queued_again_itself_is_judged_when_it_is_back(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers("sinfo", "n1|mixed|none\nn2|down*|Not responding\n")
    run.request_stop("SIGTERM to the agent on n1")  # SLURM ended it for the sake of n2
    assert begin(run) == 1
    attempt = read_json(run.state)["attempts"][0]
    assert (attempt["verdict"]["cause"], attempt["verdict"]["node"]) == ("hardware", "n2")
    assert attempt["decision"]["restart"]


def test_a_controller_that_is_away_when_a_job_is_back_ends_no_run(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers(
        "sinfo", stderr="slurm_load_node: Unable to contact slurm controller", code=1
    )
    assert begin(run) == 1
    assert read_json(run.state)["attempts"][0]["verdict"]["cause"] == "preempted"


def test_one_that_makes_no_progress_is_not_begun_for_ever(run: RunFolder) -> None:
    assert [begin(run), begin(run)] == [1, 2]  # preempted without a checkpoint, twice
    with pytest.raises(MachineFault, match="3 attempts in a row ended without a checkpoint"):
        begin(run)
    assert read_json(run.state)["outcome"] == "failed"


def test_enough_nodes_stay_for_the_job(
    run: RunFolder, ended: Callable[..., None], fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers("sinfo", "n1|mixed|none\nn2|mixed|none\n")  # all that the partition has
    ended("n1", ExitCode.RETRY_ELSEWHERE, by="SIGABRT")
    end(run, 0)
    requeue_own_job(run)
    assert "scontrol update JobId=17 ExcNodeList=" in fake_slurm.calls()


def test_a_job_that_is_queued_again_without_an_answer_is_queued_once(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    scontrol(fake_slurm, requeue='echo "Unable to contact slurm controller" >&2; exit 1')
    fake_slurm.answers("squeue", "17|COMPLETING|None|n1\n")
    assert requeue_own_job(run) == ExitCode.DONE
    assert fake_slurm.calls("sbatch") == []


def test_where_a_job_must_not_be_queued_again_a_new_one_is(
    run: RunFolder, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol(fake_slurm, requeue=f'echo "{FORBIDDEN}" >&2; exit 1')
    fake_slurm.answers("squeue")
    fake_slurm.answers("sbatch", "18\n")
    assert requeue_own_job(run) == ExitCode.DONE
    assert read_json(run.state)["slurm_job"]["number"] == "18"
    assert "queued as job 18" in capsys.readouterr().err
    assert not [call for call in fake_slurm.calls() if "update" in call]
