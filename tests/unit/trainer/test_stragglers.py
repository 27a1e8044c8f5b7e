"""Slow ranks are told from those that are slow for a moment."""

import time
from typing import Any

import pytest
import torch

from trainer.distributed import World
from trainer.own_time import OwnTime
from trainer.stragglers import WINDOWS, Stragglers


class Gathered:
    """A world of four ranks, whose own times a test sets."""

    ranks = 4
    own_s = (1.0, 1.0, 1.0, 1.0)

    def gather(self, mine: float) -> list[float]:
        return list(self.own_s)


@pytest.fixture
def world() -> Any:
    return Gathered()


def test_a_rank_that_stays_slow_is_named_with_how_slow(world: Any) -> None:
    stragglers = Stragglers(world)
    world.own_s = (1.0, 1.1, 2.0, 0.9)
    found = [stragglers.compare(step, 1.0) for step in range(WINDOWS)]
    assert found == [{}] * (WINDOWS - 1) + [{2: 2.0}]
    world.own_s = (1.0, 1.1, 1.2, 0.9)
    assert stragglers.compare(WINDOWS, 1.0) == {}


def test_a_moment_of_slowness_is_forgotten(world: Any) -> None:
    stragglers = Stragglers(world)
    for step in range(5 * WINDOWS):
        world.own_s = (1.0, 1.0, 1.0 if step % WINDOWS == 3 else 3.0, 1.0)
        assert stragglers.compare(step, 1.0) == {}


def test_of_two_ranks_the_slow_one_is_measured_by_the_other() -> None:
    nobody: Any = None
    world = World(rank=0, ranks=2, device=torch.device("cpu"), control=nobody)
    assert Stragglers(world).scores([3.0, 1.0]) == [3.0, 1.0]
    assert Stragglers(world).scores([0.0, 0.0]) == [1.0, 1.0]


def test_a_ranks_own_time_is_that_inside_the_blocks() -> None:
    own_time = OwnTime(torch.device("cpu"))
    began_s = time.perf_counter()
    for _ in range(3):
        with own_time:
            time.sleep(0.01)
    whole_s = time.perf_counter() - began_s
    time.sleep(0.05)
    assert 0.03 <= own_time.take_s() <= whole_s
    assert own_time.take_s() == 0.0
