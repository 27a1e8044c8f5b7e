"""Where a run comes from: commit, versions, host, command."""

import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "letterpress", "torch", "deepspeed", "diffusers", "transformers", "peft", "ray", "webdataset",
    "torchmetrics", "paddleocr", "onnxruntime", "tensorboard", "jsonargparse",
)  # fmt: skip


def provenance(checkout: Path) -> dict[str, Any]:
    """What to write down about a run when it is made. Nothing is imported for it."""
    return {
        "command": sys.argv,
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "git": git_commit(checkout),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The installed ones of the packages that decide what a run computes."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit(checkout: Path) -> dict[str, Any] | None:
    """The commit that a checkout stands at, and whether files differ from it; None without git."""
    commit = _git(checkout, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(checkout, "status", "--porcelain"))}


def _git(checkout: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
