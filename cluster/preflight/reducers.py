"""This node's processes for all-reduces, started early: importing torch takes longest."""

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.preflight.limits import MARGIN_S
from cluster.ranks.processes import kill_session, start_session

PROGRAM = (sys.executable, "-m", "cluster.preflight.all_reduce")


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the processes of two nodes meet, as one of the two nodes is told."""

    address: str
    """host:port on the first of the two."""
    first_rank: int
    ranks: int
    limit_s: float


class Reducers:
    """A process for each GPU, or one on a node without; to be closed."""

    def __init__(self, gpus: int, log: Path, program: Sequence[str] = PROGRAM) -> None:
        backend = ["nccl"] * gpus or ["gloo"]
        self.commands = [[*program, name, str(number)] for number, name in enumerate(backend)]
        self.log = log
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """Start the processes, which import torch."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.is_ready = False
        self.processes = [
            start_session(command, log=self.log, env=environment, cwd=Path.cwd(), talks=True)
            for command in self.commands
        ]

    def await_ready(self, limit_s: float) -> str | None:
        """Wait until all have imported torch; what went wrong, or None."""
        self.is_ready = self.is_ready or self._hear(limit_s) is not None
        if self.is_ready:
            return None
        return f"{sys.executable} could not import torch; see {self.log.parent}/preflight-*.log"

    def reduce(self, meeting: Meeting) -> float:
        """Seconds of an all-reduce at a meeting; infinity if it came to no end in time."""
        if not self.is_ready:
            return math.inf
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is dead, and will not be heard
                process.stdin.write(json.dumps(vars(meeting)).encode() + b"\n")
                process.stdin.flush()
        answers = self._hear(meeting.limit_s + MARGIN_S)
        if answers is None:
            self.close()  # what hangs in a collective does not come back
            self.start()
            return math.inf
        return max(math.inf if answer is None else float(answer) for answer in answers)

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            kill_session(process.pid)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):  # what it did not read any more
                    pipe.close()
        self.processes = []

    def _hear(self, limit_s: float) -> list[Any] | None:
        """A line from each process; None if one says nothing in time, or has ended."""
        deadline = time.monotonic() + limit_s
        answers = []
        for process in self.processes:
            assert process.stdout is not None
            left_s = max(0.0, deadline - time.monotonic())
            heard, _, _ = select.select([process.stdout], [], [], left_s)
            line = process.stdout.readline() if heard else b""
            if not line:
                return None
            answers.append(json.loads(line))
        return answers
