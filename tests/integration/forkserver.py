"""A process that has imported once what ranks import; whatever is forked from it has done so too.

Importing torch, DeepSpeed and diffusers takes a rank five seconds of a core, and a fork none. It is
sound because the process that forks has only one thread, which each fork checks.
"""

import multiprocessing
import os
import subprocess
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.kills import CHECKOUT

PRELOADED = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}


def start_forkserver() -> ForkServerContext:
    """Start the process that forks, if it is not there, and wait until it has imported all.

    It lives as long as this one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.preloaded"])
    before = dict(os.environ)
    os.environ |= PRELOADED  # the ranks will have its environment
    nothing = context.Process(target=os.getpid)
    nothing.start()
    os.environ.clear()
    os.environ |= before
    nothing.join()
    return context


def become(environment: Mapping[str, str], log: Path) -> None:
    """Make this fork what a command would be that was started so: its environment, its output."""
    threads = list(Path(f"/proc/{os.getppid()}/task").iterdir())
    assert len(threads) == 1, "a process with threads was forked"
    os.environ.clear()
    os.environ |= environment
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


class Forked:
    """A forked process, by the names that subprocess.Popen has for the same."""

    def __init__(self, process: BaseProcess) -> None:
        process.start()
        assert process.pid is not None
        self._process, self.pid = process, process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it lives."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code; None while it lives."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, this many seconds or for ever; its exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()
