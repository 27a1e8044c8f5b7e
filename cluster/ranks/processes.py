"""Starting processes that cannot be left behind, and ending them with all their children.

Linux only: a session is found through /proc, and a child is told by the kernel when we die.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

PR_SET_PDEATHSIG = 1
POLL_S = 0.05

_libc = ctypes.CDLL(None, use_errno=True)


def start_session(
    command: Sequence[str],
    *,
    log: Path | None,
    env: Mapping[str, str],
    cwd: Path,
    talks: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own: our terminal's signals do not reach it.

    If we die, however we die, the kernel kills it. Its output goes to the end of `log`; of one that
    `talks` only its errors, for its input and output are pipes to us.
    """
    die_with_us = partial(die_with, os.getpid())
    if log is None:
        return subprocess.Popen(
            command, env=env, cwd=cwd, start_new_session=True, preexec_fn=die_with_us
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_us,
        )


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however it dies."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        os._exit(1)


def session_members(session: int) -> list[int]:
    """The live processes of a session; those that only wait to be reaped are dead."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended while we looked
            # After the name in brackets: state, parent, group, session.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                members.append(int(entry.name))
    return members


def end_session(session: int, *, grace_s: float) -> None:
    """Ask every process of a session to end, and kill what is left after `grace_s` seconds."""
    _signal_all(session, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and session_members(session):
        time.sleep(POLL_S)
    kill_session(session)


def kill_session(session: int) -> None:
    """Kill every process of a session, also those that it is just starting."""
    while _signal_all(session, signal.SIGKILL):
        time.sleep(POLL_S)


def is_alive(pid: int) -> bool:
    """Whether a process runs under this number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX"


def _signal_all(session: int, signal_number: signal.Signals) -> bool:
    members = session_members(session)
    for pid in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
    return bool(members)
