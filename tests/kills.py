"""Dying at a chosen moment: a real SIGKILL at a chosen change to what lies in a folder.

CPython announces each file operation to audit hooks before it happens (PEP 578). So any moment
between two operations can be chosen, and with a delay any moment inside one.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]

OPERATIONS = frozenset({"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"})


def kill_at(folder: Path, place: str, number: int, delay_s: float = 0.0) -> None:
    """Kill this process at its operation `number` (from 0) of a kind on what is in `folder`.

    `place` is a pattern of the kind, such as `os.rename exports/LATEST`. Without a delay that
    operation does not happen. There is no way back.
    """
    count = itertools.count()

    def die_in_time(operation: str) -> None:
        if re.match(place, operation) and next(count) == number:
            threading.Timer(delay_s, _die).start() if delay_s else _die()

    on_operation(folder, die_in_time)


def on_operation(folder: Path, tell: Callable[[str], None]) -> None:
    """Call `tell` before each operation of this process on what is in `folder`, for good."""
    inside = f"{folder}/"

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in OPERATIONS:
            path = _path(event, args)
            if path.startswith(inside):
                tell(f"{event} {path.removeprefix(inside)}")

    sys.addaudithook(hook)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _path(event: str, args: tuple[Any, ...]) -> str:
    if not isinstance(args[0], str | os.PathLike):
        return ""  # an open file
    path = os.fspath(args[0])
    folder = args[-1] if event in ("os.remove", "os.rmdir") else -1  # as shutil.rmtree works
    return f"{os.readlink(f'/proc/self/fd/{folder}')}/{path}" if folder >= 0 else path


def killed_at_each(act: Callable[[Path], None], folder: Path) -> list[Path]:
    """Copies of `folder` as `act` left them, killed at its first operation, at its second …

    `act`, a function of a test module, must end well when nothing kills it.
    """
    call = f"from {act.__module__} import {act.__name__} as act"
    program = f"import sys; {call}; from tests.kills import kill_copies; kill_copies(act, sys.argv)"
    # Forks want a process with one thread, which pytest's need not be.
    subprocess.run([sys.executable, "-c", program, folder], cwd=CHECKOUT, check=True)
    return sorted(folder.parent.glob(f"{folder.name}-killed-*"))


def kill_copies(act: Callable[[Path], None], argv: list[str]) -> None:
    """What `killed_at_each` runs in a process of its own."""
    folder = Path(argv[1])
    for number in itertools.count():
        copy = folder.with_name(f"{folder.name}-killed-{number:03d}")
        shutil.copytree(folder, copy)
        pid = os.fork()
        if not pid:
            kill_at(copy, "", number)
            act(copy)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:  # it did not come to so many operations
            shutil.rmtree(copy)
            return
        assert code == -signal.SIGKILL
