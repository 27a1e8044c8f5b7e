"""Ranks that are slow for long: at every step all others wait for them."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median_low

from torch.utils.tensorboard import SummaryWriter

from trainer.distributed import World

SLOW = 1.25  # times the median: the rest of a step is lost on all other ranks
WINDOWS = 10  # so many in a row: a busy file system or a neighbour is slow for a moment


class Stragglers:
    """Compares the ranks' own times, window by window. Every rank must make each of its calls."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._board: SummaryWriter | None = None
        self._slow_windows = [0] * world.ranks

    def open_board(self, folder: Path, purge_step: int) -> None:
        """Start the curves, on the one rank that draws them."""
        self._board = SummaryWriter(folder, purge_step=purge_step)

    def close(self) -> None:
        """End the curves."""
        if self._board:
            self._board.close()

    def compare(self, step: int, own_s: float) -> dict[int, float]:
        """The ranks that have long been slow, with their own time in medians."""
        scores = self.scores(self._world.gather(own_s))
        if self._board:
            self._board.add_scalar("own_time_in_medians/slowest", max(scores), step)
            for rank, score in enumerate(scores):
                self._board.add_scalar(f"own_time_in_medians/rank_{rank:04d}", score, step)
            self._board.flush()
        return {rank: scores[rank] for rank, n in enumerate(self._slow_windows) if n >= WINDOWS}

    def scores(self, own_s: Sequence[float]) -> list[float]:
        """Each rank's own time in a window, in medians; counts the windows of the slow."""
        median_s = median_low(own_s)
        scores = [seconds / median_s if median_s else 1.0 for seconds in own_s]
        for rank, score in enumerate(scores):
            self._slow_windows[rank] = self._slow_windows[rank] + 1 if score > SLOW else 0
        return scores
