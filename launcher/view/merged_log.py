"""What all ranks of an attempt print, as one log: each line with its node and rank before it."""

import re
import time
from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import NamedTuple

from cluster.hangs.heartbeat import read_heartbeats
from cluster.run_folder import AttemptFolder

STAMP = re.compile(r"(\d\d):(\d\d):(\d\d) ")
DAY_S = 24 * 3600
FOLLOW_EVERY_S = 0.5


class Line(NamedTuple):
    """A line of a rank's log; they sort by time, then by rank."""

    time_s: int
    """Of its stamp, or of the last stamp before it; a day that ends goes on."""
    rank: int
    text: str


class RankLog:
    """One rank's log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.rank = int(path.stem.removeprefix("rank-"))
        self._path = path
        self._position = 0
        self._time_s = 0

    def new_lines(self, *, ended: bool) -> Iterator[Line]:
        """The lines that have come since this was last asked; half a line only if it has ended."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            for raw in file:
                if not (raw.endswith(b"\n") or ended):
                    break
                self._position += len(raw)
                text = raw.decode(errors="replace").rstrip("\n")
                self._time_s = _time_s(text, self._time_s)
                yield Line(self._time_s, self.rank, text)


def print_merged(attempt: AttemptFolder, *, follow: bool) -> None:
    """Print all ranks' logs by time; with `follow` go on until the attempt has ended."""
    logs: dict[Path, RankLog] = {}
    while True:
        ended = attempt.has_ended()  # asked first: what comes later is read below
        for path in sorted(attempt.root.glob("rank-*.log")):
            logs.setdefault(path, RankLog(path))
        nodes = {beat["rank"]: beat.get("node") for beat in read_heartbeats(attempt)}
        for line in merge(*(log.new_lines(ended=ended) for log in logs.values())):
            print(f"{nodes.get(line.rank) or '?'}:{line.rank}  {line.text}", flush=True)
        if ended or not follow:
            return
        time.sleep(FOLLOW_EVERY_S)


def _time_s(text: str, before_s: int) -> int:
    stamp = STAMP.match(text)
    if stamp is None:
        return before_s
    hours, minutes, seconds = map(int, stamp.groups())
    time_s = before_s // DAY_S * DAY_S + 3600 * hours + 60 * minutes + seconds
    return time_s + DAY_S if before_s - time_s > DAY_S // 2 else time_s
