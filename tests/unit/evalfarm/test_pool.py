"""A pool of stand-ins for actors: who is asked for, who is let go, and who gets what."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalfarm.farm import pool as pool_module
from evalfarm.farm.pool import BACKLOG_PER_WORKER, IDLE_S, STRAGGLER_LEAST_S, Lease, Pool, Worker
from evalfarm.rows import Picture
from evalfarm.work import Look


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass; what is killed is no Ray actor."""
    now_s = [time.monotonic()]
    monkeypatch.setattr(pool_module.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(pool_module.ray, "kill", lambda actor: None)

    def pass_some(seconds: float) -> None:
        now_s[0] += seconds

    return pass_some


def pool(most: int = 2) -> Pool:
    answers = SimpleNamespace(remote=lambda *_: object())
    actor = SimpleNamespace(started=answers, run=answers)
    return Pool("pool", lambda: actor, most=most, recycle_after=1000)


def look(number: int, *, real: bool = False) -> Lease:
    picture = Picture(checkpoint="c", prompt=number, sample=0, status="ok", file="1.png")
    unit = Look(
        suite="s",
        checkpoint="c",
        folder=Path(),
        pictures=(picture,),
        prompts=(),
        metrics=(),
        real=real,
    )
    return Lease(unit, (0, number))


def start(some: Pool, *leases: Lease) -> list[Worker]:
    """Its workers, once they are up and have got these units."""
    for lease in leases:
        some.put(lease)
    some.staff()
    for worker in some.workers:
        worker.starting = None
    return [worker for worker, _ in some.hand_out()]


def take_all(some: Pool) -> None:
    for worker in some.workers:
        while worker.runs:
            some.take(worker, succeeded=True).done = True


def test_a_worker_without_work_is_let_go_but_where_it_takes_no_room(
    pass_time: Callable[[float], None],
) -> None:
    for lets_go, left in ((True, 0), (False, 1)):
        some = pool()
        some.lets_go = lets_go
        start(some, look(0))
        take_all(some)
        pass_time(IDLE_S + 1)
        some.staff()
        assert len(some.workers) == left


def test_work_that_comes_at_last_finds_the_idle_worker(
    pass_time: Callable[[float], None],
) -> None:
    some = pool(most=1)
    start(some, look(0))
    take_all(some)
    pass_time(IDLE_S + 1)
    before = [*some.workers]
    assert start(some, look(1)) == before


def test_a_pool_that_is_held_back_asks_for_no_worker_and_lets_go(
    pass_time: Callable[[float], None],
) -> None:
    makers, lookers = pool(), pool()
    makers.feeds = lookers
    start(makers, look(0))
    take_all(makers)
    for number in range(BACKLOG_PER_WORKER + 1):
        lookers.put(look(number))
    makers.put(look(1))
    pass_time(IDLE_S + 1)
    for _ in range(2):
        makers.staff()
        assert makers.workers == []  # its room is the next pool's


def test_real_pictures_hold_nobody_back() -> None:
    makers, lookers = pool(), pool()
    makers.feeds = lookers
    for number in range(1000):
        lookers.put(look(number, real=True))
    assert len(start(makers, look(0))) == 1


def test_what_a_slow_worker_holds_up_goes_to_others_once(
    pass_time: Callable[[float], None],
) -> None:
    some = pool(most=3)
    start(some, *(look(number) for number in range(3)))
    take_all(some)
    first, second, third = some.workers
    slow, behind = look(3), look(4)
    some.give(first, slow)
    some.give(first, behind)
    assert some.stragglers() == []
    pass_time(STRAGGLER_LEAST_S + 1)
    again = some.stragglers()
    assert again == [(second, slow), (third, behind)]
    for worker, lease in again:
        some.give(worker, lease)
    assert some.stragglers() == []
    for worker, _ in again:
        some.take(worker, succeeded=True).done = True
    assert some.stragglers() == []  # it is done, however long the slow one takes
    assert some.active == 0
