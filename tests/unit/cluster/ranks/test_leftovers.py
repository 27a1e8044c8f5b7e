"""A new attempt starts on a clean node, and harms nobody else."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.ranks.leftovers import mark_of, sweep
from cluster.ranks.processes import is_alive
from cluster.run_folder import AttemptFolder, RunFolder

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Starts what a rank of an attempt might leave behind."""
    started = []

    def start(attempt: AttemptFolder, node: str = "n1") -> int:
        environment = {**os.environ, **mark_of(attempt, node)}
        started.append(subprocess.Popen(SLEEP, env=environment, start_new_session=True))
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_an_earlier_attempt_left_is_killed_and_nothing_else(
    start: Callable[..., int], tmp_path: Path
) -> None:
    run, another = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run-2")
    left = [start(run.attempt(0)), start(run.attempt(1))]
    others = [start(run.attempt(2)), start(run.attempt(3)), start(another.attempt(0))]
    others.append(start(run.attempt(0), node="n2"))  # as two nodes of a test lie on one machine
    assert sorted(sweep(run.attempt(2), "n1")) == sorted(left)
    assert not any(map(is_alive, left))
    assert all(map(is_alive, others))
    assert sweep(run.attempt(2), "n1") == []
