"""Batch scripts: the lines that those of a run, of its farm and of a sweep have in common."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from launcher.slurm.site import SlurmConfig, minutes

CHECK_PYTHON = """\
[ -x "$PYTHON" ] || {
    echo "error: $SLURMD_NODENAME has no $PYTHON: mount it there, or leave the node out, by" \\
        "slurm.flags=[--exclude=$SLURMD_NODENAME]" >&2
    exit 2
}
"""


def script(about: str, flags: Iterable[str], variables: Iterable[str], body: str) -> str:
    """A batch script; `about` is its comment, `variables` are what its body reads."""
    return "\n".join(
        [
            "#!/bin/bash",
            f"# {about}",
            "",
            *(f"#SBATCH {flag}" for flag in flags),
            "",
            "set -euo pipefail",
            *variables,
            body,
        ]
    )


def python_and_run(slurm: SlurmConfig, run: Path) -> list[str]:
    """The variables of a script that is about one run."""
    python = shlex.quote(str(slurm.python or sys.executable))
    return [f"PYTHON={python}", f"RUN={shlex.quote(str(run))}", "", CHECK_PYTHON]


def time_flag(slurm: SlurmConfig) -> str:
    """The time limit, as flag of sbatch."""
    hours, rest = divmod(minutes(slurm), 60)
    return f"--time={hours:02d}:{rest:02d}:00"


def output_flag(output: Path) -> str:
    """Where the job prints; the file's name may hold SLURM's %j. ValueError if SLURM cannot."""
    folder = str(output.parent)
    if unfit := set(folder) & set('"\\\n'):
        raise ValueError(f"{folder}: SLURM cannot write into a path with {unfit.pop()!r} in it")
    return f'--output="{folder.replace("%", "%%")}/{output.name}"'
