"""Ranks that live and do not go on, found by their heartbeats.

Each agent watches its own ranks. How long one may be silent is learned from the run, for each
phase: ten times the longest silence in it that ended well, in this attempt or an earlier one.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.hangs.heartbeat import PHASES
from cluster.run_folder import AttemptFolder, RunFolder, read_json

PAUSE_S = 5.0  # an agent that was itself held up does not count that as its ranks' silence


@dataclass(frozen=True, kw_only=True)
class Limits:
    """For how many seconds a rank may be silent."""

    first_s: float = 1800.0
    """In a phase that none has been seen to leave: a model may be read from cold storage there."""
    floor_s: float = 300.0
    """However quick a phase has been: a storage server that fails over takes minutes."""
    factor: float = 10.0
    """Of the longest silence that ended well."""

    def of(self, longest_s: float | None) -> float:
        """The limit of a phase, from the longest silence in it."""
        return self.first_s if longest_s is None else max(self.floor_s, self.factor * longest_s)


@dataclass(frozen=True, kw_only=True)
class Silence:
    """A rank that has said nothing for longer than it may."""

    rank: int
    phase: str
    step: int
    silent_s: float
    limit_s: float


class HangWatch:
    """Watches the heartbeats of one node's ranks."""

    def __init__(
        self, run: RunFolder, attempt: AttemptFolder, ranks: Sequence[int], limits: Limits
    ) -> None:
        self.longest_s = _known(run, attempt)
        self._attempt = attempt
        self._limits = limits
        self._looked_s = time.monotonic()
        self._silent_s = dict.fromkeys(ranks, 0.0)
        self._beats: dict[int, dict[str, Any]] = {rank: {"phase": PHASES[0]} for rank in ranks}

    def look(self, alive: Collection[int]) -> Silence | None:
        """The first of the ranks `alive` that has been silent for too long, if there is one."""
        since_s = min(time.monotonic() - self._looked_s, PAUSE_S)
        self._looked_s = time.monotonic()
        for rank in alive:
            self._silent_s[rank] += since_s
            path = self._attempt.heartbeat(rank)
            beat = read_json(path) if path.exists() else self._beats[rank]
            if beat != self._beats[rank]:
                self._learn(self._beats[rank]["phase"], self._silent_s[rank])
                self._beats[rank], self._silent_s[rank] = beat, 0.0
            silence = self._silence(rank)
            if silence.silent_s > silence.limit_s:
                return silence
        return None

    def _learn(self, phase: str, silent_s: float) -> None:
        self.longest_s[phase] = max(silent_s, self.longest_s.get(phase, 0.0))

    def _silence(self, rank: int) -> Silence:
        phase = self._beats[rank]["phase"]
        return Silence(
            rank=rank,
            phase=phase,
            step=self._beats[rank].get("step", 0),
            silent_s=self._silent_s[rank],
            limit_s=self._limits.of(self.longest_s.get(phase)),
        )


def _known(run: RunFolder, attempt: AttemptFolder) -> dict[str, float]:
    """The longest silence of each phase that ended well, in the attempts before this one."""
    longest_s: dict[str, float] = {}
    for number in range(attempt.number):
        for record in run.attempt(number).node_records():
            for phase, seconds in record.get("longest_silence_s", {}).items():
                longest_s[phase] = max(seconds, longest_s.get(phase, 0.0))
    return longest_s
