"""Who is slow or dead, from pairs: every bad node is found, and no good one is blamed."""

import math

import pytest

from cluster.preflight.pairs import Pair, Round, first_pairs, guilty, second_pairs


def play(pairs: list[Pair], bad: dict[int, float]) -> Round:
    """What the rounds measure where these nodes take so long; the others take 10 ms."""
    return Round(seconds={(a, b): max(bad.get(a, 0.01), bad.get(b, 0.01)) for a, b in pairs})


def found(nodes: int, bad: dict[int, float]) -> dict[int, str]:
    """Whom two rounds name."""
    first = play(first_pairs(nodes), bad)
    return guilty(nodes, (first, play(second_pairs(nodes, first), bad)))


@pytest.mark.parametrize("nodes", range(3, 18))
def test_a_dead_node_is_named_and_no_other(nodes: int) -> None:
    for dead in range(nodes):
        assert list(found(nodes, {dead: math.inf})) == [dead]


@pytest.mark.parametrize("nodes", range(4, 18))  # fewer may all be slow, by what is seen
def test_a_slow_node_is_named_and_no_other(nodes: int) -> None:
    for slow in range(nodes):
        assert list(found(nodes, {slow: 2.0})) == [slow]


@pytest.mark.parametrize("nodes", [2, 3, 4, 9])
def test_nodes_that_are_alike_are_all_good(nodes: int) -> None:
    assert found(nodes, {}) == {}
    assert found(nodes, {0: 0.05}) == {}  # a hiccup


def test_one_slow_and_one_dead_are_told_apart() -> None:
    complaints = found(8, {1: 2.0, 6: math.inf})
    assert sorted(complaints) == [1, 6]
    assert complaints[1] == "an all-reduce with it takes 2.00 s, 0.01 s is usual"
    assert complaints[6] == "no all-reduce with it came to an end"


def test_of_two_alone_either_may_be_the_dead_one() -> None:
    assert sorted(found(2, {1: math.inf})) == [0, 1]


def test_the_second_round_parts_a_pair_that_failed() -> None:
    first = play(first_pairs(6), {4: math.inf})
    second = second_pairs(6, first)
    assert (4, 5) not in second
    assert (5, 4) not in second
    assert sorted(number for pair in second for number in pair) == list(range(6))


def test_who_sat_out_is_tested_in_the_second_round() -> None:
    first = play(first_pairs(5), {})
    assert first.of(4) is None
    assert any(4 in pair for pair in second_pairs(5, first))
