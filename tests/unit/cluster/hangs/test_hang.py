"""Of ranks that do not go on, who keeps the others waiting."""

import pytest

from cluster.hangs.hang import lagging, place
from cluster.hangs.heartbeat import PHASES

TRAIN, SAVE = PHASES.index("train"), PHASES.index("save")


@pytest.mark.parametrize(
    ("places", "waiting", "expected"),
    [
        # One is a step behind: whatever the others do, they wait for it.
        ([(7, TRAIN), (6, TRAIN), (7, TRAIN)], [True, False, True], [1]),
        ([(7, TRAIN), (6, TRAIN)], [False, True], [1]),
        # All have done the same step: the stacks tell.
        ([(6, TRAIN)] * 3, [True, False, True], [1]),
        ([(6, TRAIN)] * 3, [True, False, False], [1, 2]),
        ([(6, TRAIN)] * 3, [True, None, True], [1]),  # no stacks came from its node
        ([(6, TRAIN)] * 3, [False, None, True], [0]),
        # At the same step, one still computes while another saves already.
        ([(6, SAVE), (6, TRAIN)], [True, True], [1]),
        # All wait for each other: the network.
        ([(6, TRAIN)] * 3, [True] * 3, []),
        ([(6, TRAIN)], [False], [0]),
    ],
)
def test_the_lagging_ranks_are_named(
    places: list[tuple[int, int]], waiting: list[bool | None], expected: list[int]
) -> None:
    assert lagging(dict(enumerate(places)), dict(enumerate(waiting))) == expected


def test_a_rank_that_never_spoke_is_behind_all() -> None:
    assert place({"phase": PHASES[0]}) < place({"phase": "load", "step": 0})
    assert place({"phase": "load", "step": 0}) < place({"phase": "train", "step": 1})
