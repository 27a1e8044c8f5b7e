"""How far the farm is: what it writes for others, and how that reads on a terminal."""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from cluster.run_folder import read_json, write_json
from cluster.table import bar, duration

SPEED_WINDOW_S = 120.0
STALE_S = 60.0
FILE = "progress.json"


class Progress(TypedDict):
    """How far a checkpoint is, in pictures."""

    name: str
    expected: int
    made: int
    scored: int


class Speed:
    """Pictures per second of the last two minutes."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int]] = deque()
        self._since_s = time.monotonic()

    def add(self, pictures: int) -> None:
        """Count pictures that are finished now."""
        now_s = time.monotonic()
        self._done.append((now_s, pictures))
        while self._done[0][0] < now_s - SPEED_WINDOW_S:
            self._done.popleft()

    @property
    def per_second(self) -> float:
        """0 before the first."""
        span_s = min(SPEED_WINDOW_S, time.monotonic() - self._since_s)
        return sum(count for _, count in self._done) / max(span_s, 1e-6)


def write_progress(folder: Path, checkpoints: Sequence[Progress], speed: Speed) -> None:
    """Say what is left of a suite: of each checkpoint its name, pictures made, scored, expected."""
    write_json(
        folder / FILE,
        {
            "time": time.time(),
            "pictures_per_second": round(speed.per_second, 3),
            "checkpoints": list(checkpoints),
        },
    )


def read_progress(evaluations: Path) -> dict[str, dict[str, Any]]:
    """What the farm of a run said last, by suite."""
    return {path.parent.name: read_json(path) for path in sorted(evaluations.glob(f"*/{FILE}"))}


def progress_lines(progress: dict[str, dict[str, Any]]) -> list[str]:
    """What `status` prints of a farm, wherever it runs: one line per checkpoint that has work."""
    lines = []
    for suite, said in progress.items():
        speed = said["pictures_per_second"]
        age_s = time.time() - said["time"]
        left = [c for c in said["checkpoints"] if c["scored"] < c["expected"]]
        state = f"{speed:.2f} pictures/s" if left else "all is scored"
        if left and age_s > STALE_S:
            state = f"the farm has said nothing for {age_s:.0f} s"
        lines.append(f"{suite}: {state}")
        lines += [f"  {_checkpoint_line(checkpoint, speed)}" for checkpoint in left]
    return lines


@contextmanager
def progress_display(evaluations: Path) -> Iterator[Callable[[], None]]:
    """Yields what brings the lines on a terminal up to date; elsewhere there is no display."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    console = Console(stderr=True)
    root = logging.getLogger()
    before = root.handlers
    root.handlers = [RichHandler(console=console, show_level=False, show_path=False)]
    try:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield lambda: live.update(
                Text("\n".join(progress_lines(read_progress(evaluations)))), refresh=True
            )
    finally:
        root.handlers = before


def _checkpoint_line(checkpoint: Progress, speed: float) -> str:
    expected, scored = checkpoint["expected"], checkpoint["scored"]
    left = duration((expected - scored) / speed) if speed else "?"
    return (
        f"{checkpoint['name']} {bar(scored, expected)} "
        f"made {checkpoint['made']}, scored {scored} of {expected}, {left} left"
    )
