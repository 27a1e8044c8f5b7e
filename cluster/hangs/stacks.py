"""Where the ranks of a hang stand: the stacks of all their threads.

A rank answers a signal by faulthandler, whose handler is C and needs no lock of Python's: it
answers too while the rank waits in gloo or NCCL, or runs in circles. It is the only signal that is
ever sent to a rank, by its own agent and moments before the end. SIGUSR1 would be NCCL's to catch.
A rank that is stopped or waits for storage answers nothing; py-spy, where it is installed, looks
into it from outside.
"""

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.run_folder import write_text

SIGNAL = signal.SIGUSR2
POLL_S = 0.05
PATIENCE_S = 3.0
SETTLED_S = 0.3  # a log that has not grown for so long holds the whole answer
PY_SPY_TIMEOUT_S = 20.0
STATES = {"R": "running", "S": "waiting", "D": "waiting for storage", "T": "stopped"}
# Whoever waits for the others does it here: in gloo at each step, and in what DeepSpeed calls.
COLLECTIVES = "torch/distributed/distributed_c10d.py"


def answer_with_stacks() -> None:
    """Make this process write the stacks of its threads to stderr when the agent asks."""
    faulthandler.register(SIGNAL, all_threads=True)


@dataclass(frozen=True)
class Suspect:
    """A rank that is asked for its stacks."""

    pid: int
    log: Path
    """Where its stderr goes."""


def write_stacks(suspects: Mapping[Path, Suspect]) -> None:
    """Write the stacks of each process to the file it stands under, or why there are none."""
    states = {path: _state(suspect.pid) for path, suspect in suspects.items()}
    before = {path: _size(suspect.log) for path, suspect in suspects.items()}
    for path, suspect in suspects.items():
        if _answers(suspect.pid) and states[path] not in "TD":
            os.kill(suspect.pid, SIGNAL)
        else:
            del before[path]
    _await_answers({path: suspects[path].log for path in before})
    for path, suspect in suspects.items():
        said = _read_from(suspect.log, before[path]) if path in before else ""
        state = STATES.get(states[path], states[path])
        head = f"pid {suspect.pid}: {state}\n\n"
        write_text(path, head + (said or _seen_from_outside(suspect.pid)))


def waits_for_others(path: Path) -> bool | None:
    """Whether the rank whose stacks a file holds waits in a collective; None: who knows."""
    if not path.exists():
        return None
    head, _, stacks = path.read_text(errors="replace").partition("\n")
    if head.endswith(STATES["T"]):  # wherever it was stopped, it is not the others it waits for
        return False
    if 'File "' not in stacks and "Thread " not in stacks:
        return None
    return COLLECTIVES in stacks


def _await_answers(logs: Mapping[Path, Path]) -> None:
    deadline_s = settled_s = time.monotonic() + PATIENCE_S
    sizes: list[int] = []
    while logs and time.monotonic() < min(deadline_s, settled_s):
        now = [_size(log) for log in logs.values()]
        if now != sizes:
            settled_s = time.monotonic() + (SETTLED_S if sizes else PATIENCE_S)
            sizes = now
        time.sleep(POLL_S)


def _seen_from_outside(pid: int) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    tool = shutil.which("py-spy", path=path)
    if tool is None:
        return "no stacks: it does not answer, and py-spy is not installed\n"
    command = [tool, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        seen = subprocess.run(command, capture_output=True, text=True, timeout=PY_SPY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"no stacks: it does not answer, nor does py-spy in {PY_SPY_TIMEOUT_S:.0f} s\n"
    return seen.stdout or f"no stacks: it does not answer, and py-spy says: {seen.stderr}"


def _answers(pid: int) -> bool:
    """Whether a process has a handler for the signal, which would end it otherwise."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (SIGNAL - 1) & 1)


def _state(pid: int) -> str:
    """The letter that /proc has for what a process does; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _read_from(log: Path, position: int) -> str:
    with log.open("rb") as file:
        file.seek(position)
        return file.read().decode(errors="replace")
