"""What an earlier attempt of the same run has left on this node, found by our own mark.

An agent that is killed takes its ranks along, but not what they have started: processes that read
samples may hold the memory of a GPU for hours. Ranks and all their children bear run, attempt and
node in their environment.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from cluster.exit_codes import MachineFault
from cluster.ranks.processes import is_alive
from cluster.run_folder import AttemptFolder

RUN, ATTEMPT, NODE = "LETTERPRESS_RUN", "LETTERPRESS_ATTEMPT", "LETTERPRESS_NODE"
PATIENCE_S = 20.0  # for the kernel to take back the memory of a GPU
POLL_S = 0.05


def mark_of(attempt: AttemptFolder, node: str) -> dict[str, str]:
    """What to put into the environment of an attempt's ranks on a node."""
    return {RUN: str(attempt.root.parents[1]), ATTEMPT: str(attempt.number), NODE: node}


def sweep(attempt: AttemptFolder, node: str) -> list[int]:
    """Kill what earlier attempts of this run have left on a node; the processes that were killed.

    MachineFault if one of them cannot be killed: it may hold what the ranks need.
    """
    mark = mark_of(attempt, node)
    found: list[int] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while left := [pid for pid, number in _marked(mark) if number < attempt.number]:
        if time.monotonic() > deadline_s:
            raise MachineFault(
                f"process {left[0]} of an earlier attempt does not end though it was killed: it "
                f"waits in the kernel, for storage or a GPU"
            )
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        found += [pid for pid in left if pid not in found]
        time.sleep(POLL_S)
    return found


def _marked(mark: Mapping[str, str]) -> list[tuple[int, int]]:
    """The live processes of the same run and node, each with the number of its attempt."""
    marked = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended while we looked, or is another user's
            variables = dict(
                variable.partition("=")[::2]
                for variable in (entry / "environ").read_text(errors="replace").split("\0")
            )
            same = all(variables.get(name) == mark[name] for name in (RUN, NODE))
            if same and is_alive(int(entry.name)):
                marked.append((int(entry.name), int(variables[ATTEMPT])))
    return marked
