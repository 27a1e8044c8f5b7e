"""Asking another program something, with a limit: also one that hangs where nothing can kill it."""

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

REAP_S = 0.2  # for a killed program to be gone; one that waits for a device stays


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a program printed, or why there is nothing."""

    text: str | None = None
    silence: str = ""
    """Why there is no text: it is not here, it failed, it took too long."""
    timed_out: bool = False
    """That it took too long."""


def ask(
    command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Answer:
    """What a program prints; `environment` is laid over ours.

    It is killed after `timeout_s` and not waited for: nvidia-smi on a broken GPU cannot be killed.
    """
    name = command[0].rpartition("/")[2]
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        return Answer(silence=f"no {name} on PATH")
    except OSError as error:
        return Answer(silence=f"{name} does not start: {error.strerror}")
    try:
        printed, complained = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=REAP_S)
        return Answer(silence=f"{name} gave no answer in {timeout_s:g} s", timed_out=True)
    if process.returncode:
        words = (complained.strip() or printed.strip() or "it said nothing").splitlines()
        return Answer(silence=f"{name}: {words[-1].removeprefix(f'{name}:').strip()}")
    return Answer(text=printed)
