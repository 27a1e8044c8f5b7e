"""What each rank is doing right now, in a small file that anybody may read."""

import os
import time
from pathlib import Path
from typing import Any

from cluster.run_folder import AttemptFolder, read_json, write_json

BEAT_EVERY_S = 0.5


class Heartbeat:
    """Writes one rank's file, often enough for a progress bar and no oftener."""

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self.rank = rank
        self.state: dict[str, Any] = {}
        self._written_s = -BEAT_EVERY_S

    def __call__(self, phase: str, **facts: Any) -> None:
        """Say what comes next: a phase such as `train` or `save`, and facts such as the step."""
        changed_phase = phase != self.state.get("phase")
        self.state = {**self.state, **facts, "phase": phase}
        now_s = time.monotonic()
        if changed_phase or now_s - self._written_s >= BEAT_EVERY_S:
            self._written_s = now_s
            stamp = {
                "rank": self.rank,
                "pid": os.getpid(),
                "monotonic_s": now_s,
                "time": time.time(),
            }
            write_json(self.path, {**stamp, **self.state})


def read_heartbeats(attempt: AttemptFolder) -> list[dict[str, Any]]:
    """The last beat of every rank that has given one, by rank."""
    return [read_json(path) for path in sorted((attempt.root / "heartbeat").glob("rank-*.json"))]
