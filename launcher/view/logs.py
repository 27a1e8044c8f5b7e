"""What ranks and the farm print, attempt after attempt."""

import time
from pathlib import Path

from cluster.run_folder import AttemptFolder, RunFolder
from launcher.run_state import run_state

FOLLOW_EVERY_S = 0.5


def print_log(path: Path, attempt: AttemptFolder, *, follow: bool) -> None:
    """Print a file of an attempt; with `follow` what is added to it, until the attempt has ended.

    ValueError if there is no such file, nor will be one that is waited for.
    """
    if not path.exists() and not follow:
        raise ValueError(f"there is no {path}")
    position = 0
    while True:
        ended = bool(attempt.node_records())  # asked first: what comes later is read below
        if path.exists():
            with path.open(errors="replace") as file:
                file.seek(position)
                print(file.read(), end="", flush=True)
                position = file.tell()
        if ended or not follow:
            return
        time.sleep(FOLLOW_EVERY_S)


def next_attempt(run: RunFolder, number: int) -> int | None:
    """The attempt that follows, as soon as it is there; None if none will."""
    while run_state(run) in ("queued", "starting", "running", "stopping", "restarting"):
        newest = run.last_attempt()
        if newest != number:
            return newest
        time.sleep(FOLLOW_EVERY_S)
    return None
