"""The backend on this machine: what lives on from one attempt to the next."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, write_json
from cluster.state import new_state
from launcher import job as jobs
from launcher import programs
from launcher.job import Job
from launcher.local import see_to_the_farm


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """A job in its first attempt, whose farm is a process that prints and waits."""
    run = RunFolder(tmp_path / "run")
    write_json(run.state, new_state({}))
    run.code.mkdir()
    farm = "import time; print('scoring', flush=True); time.sleep(600)"

    def start_session(command: Sequence[str], **options: object) -> object:
        return starts_session([sys.executable, "-c", farm], **options)  # type: ignore[arg-type]

    starts_session = programs.start_session
    monkeypatch.setattr(programs, "start_session", start_session)
    monkeypatch.setattr(jobs, "GRACE_S", 1.0)
    made = Job(run)
    made.begin()
    yield made
    made.kill()


def test_the_farm_goes_on_in_the_next_attempt(job: Job) -> None:
    see_to_the_farm(job)
    farm = job.farm
    job.begin()
    see_to_the_farm(job)
    assert job.farm is farm


def test_a_farm_that_has_failed_is_started_anew_with_the_next_attempt(job: Job) -> None:
    see_to_the_farm(job)
    failed = job.farm
    assert failed is not None
    failed.kill()
    failed.wait()
    job.begin()
    see_to_the_farm(job)
    assert job.farm is not failed
    assert job.farm is not None
    assert job.farm.poll() is None
