"""Which of several jobs has the head of a farm's Ray: one at a time, and the newest counts."""

import json
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode, Superseded
from cluster.ray.heads import SETTLES_S, Head, Heads, Life
from cluster.run_folder import RunFolder
from tests.fake_slurm import FakeSlurm

NOBODY = "127.0.0.1:9"


@pytest.fixture
def run(tmp_path: Path, fake_slurm: FakeSlurm) -> RunFolder:
    """A run folder, on a cluster that knows of no job."""
    fake_slurm.answers("squeue")
    return RunFolder(tmp_path)


@pytest.fixture
def listener() -> Iterator[str]:
    """An address that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def heads_of(run: RunFolder, job: str, restarts: int = 0) -> Heads:
    """A run's heads, as one of its jobs sees them."""
    return Heads(run, Life(job=job, restarts=restarts))


def settled(heads: Heads, head: Head, **facts: object) -> Head:
    """A head that was there long before SLURM was asked."""
    return heads.note(head, began=time.time() - 2 * SETTLES_S, **facts)


def test_the_first_of_two_jobs_leads_and_the_other_sees_who_it_is(run: RunFolder) -> None:
    first, second = heads_of(run, "17"), heads_of(run, "18_3")
    assert first.newest() is None
    head = first.follow(None)
    assert (head.number, head.life.job) == (0, "17")
    assert second.follow(None) == second.newest() == head
    assert [path.name for path in run.farm_heads.iterdir()] == ["000.json"]


def test_only_one_follows_a_head_that_has_ended(run: RunFolder) -> None:
    first, *others = (heads_of(run, job) for job in ("17", "18", "19"))
    head = first.note(first.follow(None), code=int(ExitCode.STOPPED))
    assert all(heads.is_over(head) for heads in others)
    assert [heads.follow(head).life.job for heads in others] == ["18", "18"]


def test_a_head_that_answers_is_not_over_whatever_slurm_says(
    run: RunFolder, listener: str, fake_slurm: FakeSlurm
) -> None:
    head = settled(heads_of(run, "17"), heads_of(run, "17").follow(None), address=listener)
    assert not heads_of(run, "18").is_over(head)
    assert fake_slurm.calls() == []


@pytest.mark.parametrize(
    ("squeue", "over"),
    [
        ("17|RUNNING|None|n1\n", False),
        ("17|COMPLETING|None|n1\n", False),  # its processes may still be there
        ("17|PENDING|BeginTime|\n", True),  # queued again
        ("17|CANCELLED|None|n1\n", True),
        ("", True),  # forgotten
    ],
)
def test_of_a_head_that_is_silent_slurm_says_whether_its_job_goes_on(
    run: RunFolder, fake_slurm: FakeSlurm, squeue: str, over: bool
) -> None:
    fake_slurm.answers("squeue", squeue)
    head = settled(heads_of(run, "17"), heads_of(run, "17").follow(None), address=NOBODY)
    assert [heads_of(run, job).is_over(head) for job in ("18", "19")] == [over, over]
    assert len(fake_slurm.calls("squeue")) == 1


def test_what_slurm_said_before_a_head_began_does_not_count_against_it(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers("squeue", "17|PENDING|Priority|\n")  # it started a moment later
    head = heads_of(run, "17").follow(None)
    assert not heads_of(run, "18").is_over(head)


def test_a_head_is_not_over_because_slurm_does_not_answer(
    run: RunFolder, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.answers("squeue", stderr="Unable to contact slurm controller", code=1)
    head = settled(heads_of(run, "17"), heads_of(run, "17").follow(None), address=NOBODY)
    other = heads_of(run, "18")
    assert [other.is_over(head) for _ in range(2)] == [False, False]
    assert capsys.readouterr().out == (
        "nobody knows whether job 17 goes on: SLURM does not answer: "
        "Unable to contact slurm controller\n"
    )


def test_a_job_that_was_queued_again_knows_that_its_own_head_is_over(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    head = heads_of(run, "17").follow(None)
    again = heads_of(run, "17", restarts=1)
    assert again.is_over(head)
    assert again.follow(head).life == again.ours
    assert fake_slurm.calls() == []


def test_a_head_that_slurm_had_lost_ends_when_another_has_taken_over(run: RunFolder) -> None:
    lost = heads_of(run, "17")
    head = lost.follow(None)
    lost.check(head)
    heads_of(run, "18").follow(head)
    with pytest.raises(Superseded, match="job 18 has taken over the farm from job 17"):
        lost.check(head)


def test_the_token_is_its_owners_alone_and_goes_with_the_head(run: RunFolder) -> None:
    ours = heads_of(run, "17")
    head = ours.follow(None)
    token = ours.new_token(head)
    (path,) = run.farm_heads.glob("*.token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert heads_of(run, "18").token(head) == token
    assert token not in json.dumps([file.read_text() for file in run.farm_heads.glob("*.json")])
    ours.forget_token(head)
    assert not path.exists()


def test_the_token_of_a_head_that_was_lost_is_removed_by_the_next(run: RunFolder) -> None:
    lost, next_one = heads_of(run, "17"), heads_of(run, "18")
    head = lost.follow(None)
    lost.new_token(head)
    next_one.new_token(next_one.follow(head))
    assert [path.name for path in run.farm_heads.glob("*.token")] == ["001.token"]
