"""What slurm/evalfarm.sh does when the farm, or the Ray below it, ends: queue again, or end so."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import kill_session
from launcher.slurm.farm import BODY
from tests.conftest import wait_until

GOES_ON = "exec sleep 60"
USUALLY = {"nodes": GOES_ON, "requeue": "touch requeued"}
# As cluster.ray.on_slurm does when it is told to: in its own time.
LEAVES = f"""\
trap 'sleep 0.2; touch left; exit {ExitCode.STOPPED:d}' TERM
touch leads
sleep 60 &
wait
"""
# The job's Python, by what it is asked: each `python -m …` is a file with its script.
PYTHON = """\
#!/bin/bash
cd ..
case "$*" in
*requeue*) . ./requeue ;;
*lead*evalfarm*) . ./farm ;;
esac
"""


class Job:
    """A job whose programs do what a test says."""

    def __init__(self, folder: Path, restarts: int, **scripts: str) -> None:
        self.folder = folder
        for name, script in {**USUALLY, **scripts}.items():
            (folder / name).write_text(script)
        (folder / "code").mkdir()
        for name, script in {"python": PYTHON, "srun": "#!/bin/sh\ncd ..; . ./nodes\n"}.items():
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        head = f"set -euo pipefail\nPYTHON={folder}/python\nRUN={folder}\n"
        self.process = subprocess.Popen(
            ["bash", "-c", head + BODY],
            env={
                "PATH": f"{folder}:{os.environ['PATH']}",
                "SLURM_JOB_ID": "17",
                "SLURM_RESTART_COUNT": str(restarts),
            },
            start_new_session=True,
        )

    @property
    def code(self) -> int:
        """How it ended."""
        return self.process.wait(30)

    @property
    def is_queued_again(self) -> bool:
        """Whether it has asked for that, with which SLURM ends it."""
        return self.code == 0 and (self.folder / "requeued").exists()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts a job; what it has started ends with the test."""
    jobs: list[Job] = []

    def start_job(*, restarts: int = 0, **scripts: str) -> Job:
        jobs.append(Job(tmp_path, restarts, **scripts))
        return jobs[-1]

    yield start_job
    for job in jobs:
        kill_session(job.process.pid)
        job.process.wait()


def test_a_farm_that_is_done_ends_the_job(start: Callable[..., Job]) -> None:
    job = start(farm="exit 0")
    assert (job.code, job.is_queued_again) == (ExitCode.DONE, False)


def test_a_users_mistake_ends_the_job_with_its_code(start: Callable[..., Job]) -> None:
    job = start(farm=f"exit {ExitCode.BAD_INPUT:d}")
    assert (job.code, job.is_queued_again) == (ExitCode.BAD_INPUT, False)


def test_a_job_whose_time_is_nearly_up_is_queued_again_once_its_farm_has_left(
    start: Callable[..., Job],
) -> None:
    job = start(farm=LEAVES)
    wait_until((job.folder / "leads").exists)
    job.process.send_signal(signal.SIGUSR1)
    assert job.is_queued_again
    assert (job.folder / "left").exists()


def test_a_job_that_is_about_to_be_queued_again_is_not_ended_by_its_time(
    start: Callable[..., Job],
) -> None:
    job = start(farm=LEAVES, requeue="touch asks; sleep 0.5; touch requeued")
    wait_until((job.folder / "leads").exists)
    job.process.send_signal(signal.SIGUSR1)
    wait_until((job.folder / "asks").exists)
    job.process.send_signal(signal.SIGUSR1)
    assert job.is_queued_again


def test_a_job_that_is_ended_lets_its_farm_leave_and_is_not_queued_again(
    start: Callable[..., Job],
) -> None:
    job = start(farm=LEAVES)
    wait_until((job.folder / "leads").exists)
    job.process.terminate()
    assert (job.code, job.is_queued_again) == (128 + signal.SIGTERM, False)
    assert (job.folder / "left").exists()


def test_a_job_that_is_preempted_is_queued_again_however_often_it_was(
    start: Callable[..., Job],
) -> None:
    asked_to_end = f"while [ ! -e leads ]; do :; done; exit {ExitCode.STOPPED:d}"
    job = start(farm=LEAVES, nodes=asked_to_end, restarts=99)
    assert job.is_queued_again
    assert (job.folder / "left").exists()


def test_a_farm_that_the_machine_fails_is_queued_again_a_few_times(
    start: Callable[..., Job],
) -> None:
    assert start(farm=f"exit {ExitCode.RETRY_ELSEWHERE:d}", restarts=4).is_queued_again


def test_a_machine_that_fails_for_ever_is_not_tried_for_ever(start: Callable[..., Job]) -> None:
    job = start(farm=f"exit {ExitCode.RETRY_ELSEWHERE:d}", restarts=5)
    assert (job.code, job.is_queued_again) == (ExitCode.RETRY_ELSEWHERE, False)
