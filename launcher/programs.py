"""The programs that a run is made of, started from its own copy of the code."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.ranks.processes import start_session
from cluster.run_folder import RunFolder


def start_program(
    run: RunFolder, command: Sequence[str], log: Path | None
) -> subprocess.Popen[bytes]:
    """Start a module of ours, in a session of its own; it prints to `log`, or to where we do."""
    environment = {**os.environ, "PYTHONPATH": str(run.code), "PYTHONUNBUFFERED": "1"}
    return start_session([sys.executable, "-m", *command], log=log, env=environment, cwd=run.code)


def sample_maker(run: RunFolder) -> list[str]:
    """What builds a run's samples, and encodes them if it has a cache; again at no cost."""
    return ["trainer.data", "prepare", "--config", str(run.recipe)]


def farm_of(run: RunFolder) -> list[str]:
    """What scores a run's checkpoints as they come."""
    return ["evalfarm", "watch", "--run", str(run.root)]
