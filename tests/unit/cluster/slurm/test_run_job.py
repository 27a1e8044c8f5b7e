"""Whether a training has ended without a word: by its own record first, then by SLURM."""

import time
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, write_json
from cluster.slurm.run_job import how_it_was_lost
from cluster.state import begin_attempt, new_state
from tests.fake_slurm import FakeSlurm

STARTED_S = 1e9  # long before SLURM is asked


@pytest.fixture
def run(tmp_path: Path, fake_slurm: FakeSlurm) -> RunFolder:
    """A run whose attempt is open, in job 17."""
    fake_slurm.answers("squeue", "17|CANCELLED|None|n1\n")
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    job = {"number": "17", "submitted": STARTED_S}
    write_json(run.state, {**new_state({}), "slurm_job": job})
    begin_attempt(run, backend="slurm", job="17")
    return run


def test_a_training_that_was_cancelled_by_scancel_is_lost(run: RunFolder) -> None:
    assert how_it_was_lost(run) == f"job 17, which trained {run.root}, is CANCELLED"


def test_one_that_waited_in_the_queue_is_lost_as_well(
    tmp_path: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers("squeue")
    run = RunFolder(tmp_path)
    job = {"number": "17", "submitted": STARTED_S}
    write_json(run.state, {**new_state({}), "slurm_job": job})
    assert how_it_was_lost(run) == f"job 17, which trained {run.root}, is GONE"


def test_of_one_whose_ranks_are_heard_of_slurm_is_not_asked(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    write_json(run.attempt(0).heartbeat(0), {"time": time.time()})
    assert how_it_was_lost(run) is None
    assert fake_slurm.calls() == []


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "COMPLETING"])
def test_one_that_goes_on_or_is_queued_again_is_not_lost(
    run: RunFolder, fake_slurm: FakeSlurm, state: str
) -> None:
    fake_slurm.answers("squeue", f"17|{state}|None|n1\n")
    assert how_it_was_lost(run) is None


def test_one_that_slurm_cannot_be_asked_about_is_not_lost(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    (fake_slurm.bin / "squeue").unlink()
    assert how_it_was_lost(run) is None


def test_a_run_that_is_not_on_slurm_is_none_of_slurms(
    tmp_path: Path, fake_slurm: FakeSlurm
) -> None:
    run = RunFolder(tmp_path)
    assert how_it_was_lost(run) is None  # without a record: exports that somebody copied
    write_json(run.state, new_state({}))
    begin_attempt(run, backend="local", pid=1)
    assert how_it_was_lost(run) is None
    assert fake_slurm.calls() == []
