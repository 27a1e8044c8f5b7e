"""What each rank is doing right now, in a small file that anybody may read."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from cluster.ranks.leftovers import NODE
from cluster.run_folder import AttemptFolder, RunFolder, read_json, write_json

BEAT_EVERY_S = 0.5
SILENT_S = 60.0
# In the order in which a rank comes to them: at one step, whoever is in an earlier one is behind.
PHASES = ("start", "load", "train", "validate", "save", "ended")


class Heartbeat:
    """Writes one rank's file, often enough for a progress bar and no oftener.

    What was said last is written half a second later at the latest, by a thread, so that a rank
    which stands still is not taken for one that is behind.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self.rank = rank
        self.state: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._written_s = -BEAT_EVERY_S
        self._later: threading.Timer | None = None
        self._error: OSError | None = None

    def __call__(self, phase: str, **facts: Any) -> None:
        """Say what comes next: one of PHASES, and facts such as the step."""
        with self._lock:
            if self._error:
                raise self._error
            now_s = time.monotonic()
            wait_s = self._written_s + BEAT_EVERY_S - now_s
            changed = phase != self.state.get("phase")
            said = {"phase": phase, "monotonic_s": now_s, "time": time.time()}
            self.state = {**self.state, **facts, **said}
            if changed or wait_s <= 0:
                self._write()
            elif self._later is None:
                self._later = threading.Timer(wait_s, self._write_later)
                self._later.daemon = True
                self._later.start()

    def _write_later(self) -> None:
        with self._lock:
            self._later = None
            try:
                self._write()
            except OSError as error:  # for the rank to raise
                self._error = error

    def _write(self) -> None:
        self._written_s = time.monotonic()
        place = {"rank": self.rank, "node": os.environ.get(NODE), "pid": os.getpid()}
        write_json(self.path, {**place, **self.state})


def read_heartbeats(attempt: AttemptFolder) -> list[dict[str, Any]]:
    """The last beat of every rank that has given one, by rank."""
    return [read_json(path) for path in sorted((attempt.root / "heartbeat").glob("rank-*.json"))]


def main_beat(run: RunFolder) -> dict[str, Any] | None:
    """What the first rank of the newest attempt is doing, if it has said so."""
    number = run.last_attempt()
    if number is None:
        return None
    path = run.attempt(number).heartbeat(0)
    return dict(read_json(path)) if path.exists() else None


def beats(run: RunFolder) -> bool:
    """Whether that rank has been heard of in the last minute."""
    beat = main_beat(run)
    return beat is not None and time.time() - beat["time"] < SILENT_S
