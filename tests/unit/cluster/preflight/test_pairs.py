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


@pytest.mark.parametrize("nodes", [6, 8, 12])
def test_one_slow_and_one_dead_are_told_apart(nodes: int) -> None:
    complaints = found(nodes, {1: math.inf, 2: 2.0})
    assert sorted(complaints) == [1, 2]
    assert complaints[1] == "no all-reduce with it came to an end"
    assert complaints[2] == "an all-reduce with it takes 2.00 s, 0.01 s is usual"


def test_of_two_alone_either_may_be_the_dead_one() -> None:
    assert sorted(found(2, {1: math.inf})) == [0, 1]


@pytest.mark.parametrize("nodes", range(3, 18))
def test_no_pair_meets_twice(nodes: int) -> None:
    for bad in range(nodes):
        first = play(first_pairs(nodes), {bad: math.inf})
        second = second_pairs(nodes, first)
        assert not {frozenset(pair) for pair in first.seconds} & {frozenset(p) for p in second}
        players = [number for pair in second for number in pair]
        assert len(players) == len(set(players)) == nodes - nodes % 2


def test_who_sat_out_is_tested_in_the_second_round() -> None:
    first = play(first_pairs(5), {})
    assert first.of(4) is None
    assert any(4 in pair for pair in second_pairs(5, first))
