"""What ranks and the farm print, attempt after attempt."""

import time
from collections.abc import Callable
from pathlib import Path

from cluster.run_folder import RunFolder
from launcher.run_state import run_state

FOLLOW_EVERY_S = 0.5


def print_log(path: Path, until: Callable[[], bool] | None = None) -> None:
    """Print a file; with `until` also what is added to it, until that says so.

    ValueError if there is no such file, nor will be one that is waited for.
    """
    if not path.exists() and until is None:
        raise ValueError(f"there is no {path}")
    position = 0
    while True:
        ended = until is None or until()  # asked first: what comes later is read below
        if path.exists():
            with path.open(errors="replace") as file:
                file.seek(position)
                print(file.read(), end="", flush=True)
                position = file.tell()
        if ended:
            return
        time.sleep(FOLLOW_EVERY_S)


def is_over(run: RunFolder) -> bool:
    """Whether nothing more will come of a run as it is."""
    going_on = ("queued", "starting", "running", "stopping", "restarting")
    return run_state(run) not in going_on


def next_attempt(run: RunFolder, number: int | None) -> int | None:
    """The attempt that follows one, or the first, as soon as it is there; None if none will."""
    while not is_over(run):
        newest = run.last_attempt()
        if newest != number:
            return newest
        time.sleep(FOLLOW_EVERY_S)
    return None
