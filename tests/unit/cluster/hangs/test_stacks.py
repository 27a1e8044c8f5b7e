"""Stacks of processes that hang, each in its own way."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.hangs.stacks import STATES, Suspect, _state, waits_for_others, write_stacks
from cluster.ranks.processes import kill_session, start_session
from tests.conftest import CHECKOUT, wait_until

ANSWERS = "from cluster.hangs.stacks import answer_with_stacks\nanswer_with_stacks()\n"
READY = "print('ready', flush=True)\n"
LOOP = "def in_circles():\n    while True: pass\n"
# Deep in C, the interpreter's lock held: nothing of Python's runs there.
LOCKED = "import ctypes\ndef deep_in_c():\n    while True: ctypes.PyDLL(None).pause()\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Suspect]]:
    """Starts a program that says when it is ready."""
    started = []

    def start(code: str) -> Suspect:
        log = tmp_path / f"{len(started)}.log"
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        process = start_session(
            [sys.executable, "-c", code], log=log, env=environment, cwd=tmp_path
        )
        started.append(process)
        wait_until(lambda: "ready" in log.read_text())
        return Suspect(process.pid, log)

    yield start
    for process in started:
        kill_session(process.pid)
        process.wait()


def test_a_process_tells_where_it_runs_in_circles_or_is_stuck_in_c(
    start: Callable[[str], Suspect], tmp_path: Path
) -> None:
    loops = start(f"{ANSWERS}{LOOP}{READY}in_circles()")
    stuck = start(f"{ANSWERS}{LOCKED}{READY}deep_in_c()")
    write_stacks({tmp_path / "loops": loops, tmp_path / "stuck": stuck})
    assert "in in_circles" in (tmp_path / "loops").read_text()
    assert "in deep_in_c" in (tmp_path / "stuck").read_text()
    assert waits_for_others(tmp_path / "loops") is False
    assert (tmp_path / "loops").read_text().startswith(f"pid {loops.pid}: running\n")
    for suspect in (loops, stuck):  # it was asked, not ended
        assert _state(suspect.pid) in "RS"


def test_a_process_that_would_die_of_the_signal_gets_none(
    start: Callable[[str], Suspect], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.hangs.stacks.shutil.which", lambda name, path: None)
    suspect = start(f"{READY}import time; time.sleep(600)")
    write_stacks({tmp_path / "stacks": suspect})
    assert (
        "no stacks: it does not answer, and py-spy is not installed"
        in (tmp_path / "stacks").read_text()
    )
    assert waits_for_others(tmp_path / "stacks") is None
    assert _state(suspect.pid) in "RS"


def test_a_stopped_process_waits_for_nobody(
    start: Callable[[str], Suspect], tmp_path: Path
) -> None:
    suspect = start(f"{ANSWERS}{READY}import time; time.sleep(600)")
    os.kill(suspect.pid, signal.SIGSTOP)
    wait_until(lambda: _state(suspect.pid) == "T")
    write_stacks({tmp_path / "stacks": suspect})
    assert (tmp_path / "stacks").read_text().startswith(f"pid {suspect.pid}: {STATES['T']}\n")
    assert waits_for_others(tmp_path / "stacks") is False


@pytest.mark.parametrize(
    ("stacks", "expected"),
    [
        ('  File "/lib/torch/distributed/distributed_c10d.py", line 3007 in all_reduce\n', True),
        ("    all_reduce (torch/distributed/distributed_c10d.py:3007)\nThread 1 (idle)\n", True),
        ('  File "/lib/torch/utils/data/dataloader.py", line 9 in __next__\n', False),
        ("no stacks: it does not answer, and py-spy is not installed\n", None),
    ],
)
def test_who_waits_in_a_collective_waits_for_others(
    stacks: str, expected: bool | None, tmp_path: Path
) -> None:
    (tmp_path / "stacks").write_text(f"pid 7: waiting\n\n{stacks}")
    assert waits_for_others(tmp_path / "stacks") is expected
    assert waits_for_others(tmp_path / "another") is None
