"""Processes: a session ends whole, and nothing outlives the one that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.ranks.processes import (
    end_session,
    is_alive,
    kill_session,
    session_members,
    start_session,
)
from tests.conftest import CHECKOUT, wait_until

SLEEP = "import time; time.sleep(600)"
# A child that ignores SIGTERM and is in a process group of its own.
STUBBORN_CHILD = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    f"subprocess.Popen([sys.executable, '-c', {STUBBORN_CHILD!r}], process_group=0)\n"
    "time.sleep(600)\n"
)


def start(code: str, tmp_path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code]
    return start_session(command, log=tmp_path / "log", env=dict(os.environ), cwd=tmp_path)


def test_a_session_ends_with_all_its_children_though_they_ignore_sigterm(tmp_path: Path) -> None:
    process = start(STUBBORN, tmp_path)
    wait_until(lambda: len(session_members(process.pid)) == 2)
    end_session(process.pid, grace_s=0.2)
    assert session_members(process.pid) == []
    assert process.wait() == -signal.SIGKILL


def test_ending_a_session_gives_it_time_to_end_by_itself(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(7)))\n"
        "print('ready', flush=True); time.sleep(600)\n"
    )
    process = start(code, tmp_path)
    wait_until(lambda: "ready" in (tmp_path / "log").read_text())
    started = time.monotonic()
    end_session(process.pid, grace_s=60)
    assert time.monotonic() - started < 30
    assert process.wait() == 7
    assert "bye" in (tmp_path / "log").read_text()


def test_a_session_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "from cluster.ranks.processes import start_session\n"
        f"child = start_session([sys.executable, '-c', {SLEEP!r}], log=None, env=dict(os.environ),"
        " cwd=pathlib.Path('.'))\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        parent.wait()
    wait_until(lambda: not is_alive(child), timeout_s=10)


def test_killing_a_session_that_is_gone_does_nothing(tmp_path: Path) -> None:
    process = start("pass", tmp_path)
    process.wait()
    kill_session(process.pid)
