"""Who is slow or dead, from all-reduces of two nodes at a time, in two rounds. Pure functions.

The idea is dlrover's: a pair shows that one of two is bad, not which. In round two those that were
slow or dead are paired with faster ones; who is bad again, or made an innocent one bad, is guilty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

Pair = tuple[int, int]

# A training step waits for the slowest link. One that fell back to a slower kind, or shares its
# way with a neighbour's traffic, is off by far more than this; a busy one by less.
SLOW_TIMES = 3.0
# Less is a hiccup of the machine: it is little beside the import of torch.
SLOW_BY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round of all-reduces, and how long each pair took; infinity: it did not end in time."""

    seconds: Mapping[Pair, float]

    def of(self, node: int) -> float | None:
        """How long a node's pair took; None if it sat out."""
        return next((took for pair, took in self.seconds.items() if node in pair), None)

    def partner(self, node: int) -> int | None:
        """With whom a node was paired; None if it sat out."""
        return next((a + b - node for a, b in self.seconds if node in (a, b)), None)


def first_pairs(nodes: int) -> list[Pair]:
    """Neighbours; the last of an odd number sits out."""
    return [(number, number + 1) for number in range(0, nodes - 1, 2)]


def second_pairs(nodes: int, first: Round) -> list[Pair]:
    """The faster half with the slower; of an odd number one in the middle sits out.

    In order of speed two that were a pair stand side by side, so none meets again where there are
    more than two. Who sat out before counts as fast: it is tested now.
    """
    order = sorted(range(nodes), key=lambda number: (first.of(number) or 0.0, number))
    slower = (nodes + 1) // 2
    return [(order[place], order[slower + place]) for place in range(nodes // 2)]


def guilty(nodes: int, rounds: Sequence[Round]) -> dict[int, str]:
    """The nodes that are slow or dead, and how.

    Of two nodes alone that cannot do it, either may be the one: both are named. Slow is what others
    are not, so with fewer than four nodes a slow one may go unseen.
    """
    limit_s = slow_limit_s(rounds)
    innocent = {
        number
        for number in range(nodes)
        if any((took := each.of(number)) is not None and took <= limit_s for each in rounds)
    }
    found = {}
    for number in sorted(set(range(nodes)) - innocent):
        played = [each for each in rounds if each.of(number) is not None]
        if len(played) > 1 or any(each.partner(number) in innocent for each in played):
            found[number] = _complaint(min(each.of(number) or 0.0 for each in played), rounds)
    return found


def slow_limit_s(rounds: Sequence[Round]) -> float:
    """What an all-reduce may take, from the median of those that came to an end."""
    usual_s = usual(rounds)
    return max(SLOW_TIMES * usual_s, usual_s + SLOW_BY_S)


def usual(rounds: Sequence[Round]) -> float:
    """The lower median of what the pairs took: up to half of them may be slow. 0 if none ended."""
    ended = [took for each in rounds for took in each.seconds.values() if math.isfinite(took)]
    return median_low(ended) if ended else 0.0


def _complaint(best_s: float, rounds: Sequence[Round]) -> str:
    if math.isinf(best_s):
        return "no all-reduce with it came to an end"
    return f"an all-reduce with it takes {best_s:.2f} s, {usual(rounds):.2f} s is usual"
