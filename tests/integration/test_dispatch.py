"""Units leased to real Ray actors that fail, die, dawdle and cannot start: each is done once."""

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray

from cluster.exit_codes import MachineFault
from cluster.ray.session import ray_cluster
from evalfarm.farm import dispatch as dispatch_module
from evalfarm.farm import pool as pool_module
from evalfarm.farm.dispatch import Dispatcher
from evalfarm.farm.pool import Pool
from evalfarm.farm.work_log import WorkLog
from evalfarm.work import Report, Result, Unit
from tests.conftest import PATIENCE_S


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """A Ray for these tests alone."""
    with ray_cluster(cpus=4, gpus=0):
        yield


@ray.remote(num_cpus=0)
class Actor:
    """Does what a unit's name says: `fail`, `die`, `full`, or `sleep` until a file is there."""

    def __init__(self, folder: Path, *, at_start: str = "") -> None:
        self.folder = folder
        if at_start == "raise":
            raise RuntimeError("no such device")
        if at_start == "die":
            os._exit(1)

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Report) -> Result:
        with (self.folder / "runs.txt").open("a") as runs:
            runs.write(f"{unit.suite} {os.getpid()}\n")
        word = unit.suite.partition(" ")[0]
        if word == "fail":
            raise ValueError("it is bad")
        if word == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "/pictures/1.png")
        if word == "die":
            os._exit(1)
        first = (self.folder / "runs.txt").read_text().count(unit.suite) == 1
        while word == "sleep" and first and not (self.folder / "wake").exists():
            time.sleep(0.05)
        return Result(results={"did": unit.suite})


@pytest.fixture
def dispatch(tmp_path: Path) -> Iterator[Callable[..., Dispatcher]]:
    """Makes a dispatcher of one pool; its actors are gone when the test ends."""
    made: list[Dispatcher] = []
    log = WorkLog(tmp_path / "work.jsonl")

    def make(
        most: int = 2, recycle_after: int = 1000, timeout_s: float = 60.0, **actor: Any
    ) -> Dispatcher:
        pool = Pool(
            "pool",
            lambda: Actor.remote(tmp_path, **actor),  # type: ignore[attr-defined]
            most=most,
            recycle_after=recycle_after,
        )
        made.append(Dispatcher([pool], log, max_tries=3, timeout_s=timeout_s))
        return made[-1]

    yield make
    log.close()
    for dispatcher in made:
        for pool in dispatcher.pools.values():
            for worker in [*pool.workers]:
                pool.remove(worker)


def submit(dispatcher: Dispatcher, *names: str) -> None:
    for name in names:
        dispatcher.submit("pool", Report(suite=name))


def drain(dispatcher: Dispatcher, until: int | None = None) -> list[tuple[str, str | None]]:
    """What came back, with the error of what was given up."""
    back: list[tuple[str, str | None]] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not dispatcher.idle and (until is None or len(back) < until):
        assert time.monotonic() < deadline_s
        back += [(unit.suite, result.error) for unit, result in dispatcher.finished(0.2)]
    return back


def runs(folder: Path) -> list[tuple[str, str]]:
    """Every unit that an actor began, with its process."""
    path = folder / "runs.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.rpartition(" ")[0], line.rpartition(" ")[2]) for line in lines]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "work.jsonl").read_text().splitlines()]


def test_every_unit_comes_back_once_and_is_done_once(
    dispatch: Callable[..., Dispatcher], tmp_path: Path
) -> None:
    dispatcher = dispatch()
    names = [f"ok {number}" for number in range(30)]
    submit(dispatcher, *names)
    assert sorted(drain(dispatcher)) == sorted((name, None) for name in names)
    assert Counter(name for name, _ in runs(tmp_path)) == Counter(names)


def test_a_pool_grows_to_as_many_workers_as_there_is_work_and_room_for(
    dispatch: Callable[..., Dispatcher], tmp_path: Path
) -> None:
    dispatcher = dispatch(most=3)
    submit(dispatcher, "sleep 1", "sleep 2")
    deadline_s = time.monotonic() + PATIENCE_S
    while len(runs(tmp_path)) < 2:
        assert time.monotonic() < deadline_s
        assert list(dispatcher.finished(0.1)) == []
    assert len({pid for _, pid in runs(tmp_path)}) == len(dispatcher.pools["pool"].workers) == 2
    (tmp_path / "wake").touch()
    assert len(drain(dispatcher)) == 2


def test_a_unit_that_fails_is_tried_again_and_then_set_aside_with_its_error(
    dispatch: Callable[..., Dispatcher], tmp_path: Path
) -> None:
    dispatcher = dispatch()
    submit(dispatcher, "fail", "ok")
    back = dict(drain(dispatcher))
    assert back == {"ok": None, "fail": "after 3 tries: ValueError: it is bad"}
    assert Counter(name for name, _ in runs(tmp_path)) == {"fail": 3, "ok": 1}
    assert [e["event"] for e in events(tmp_path) if e["suite"] == "fail"][-1] == "set aside"


def test_a_unit_that_kills_its_worker_takes_no_other_with_it(
    dispatch: Callable[..., Dispatcher], tmp_path: Path
) -> None:
    dispatcher = dispatch(most=1)
    submit(dispatcher, "die", *(f"ok {number}" for number in range(6)))
    back = dict(drain(dispatcher))
    assert (back.pop("die") or "").startswith("after 3 tries: the worker died")
    assert back == {f"ok {number}": None for number in range(6)}
    assert Counter(name for name, _ in runs(tmp_path))["die"] == 3


def test_a_straggler_goes_to_an_idle_worker_too_and_counts_once(
    dispatch: Callable[..., Dispatcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STRAGGLER_LEAST_S", 0.5)
    dispatcher = dispatch()
    submit(dispatcher, *(f"ok {number}" for number in range(6)), "sleep")
    back = drain(dispatcher, until=7)
    assert ("sleep", None) in back
    assert dispatcher.idle  # the slow one holds nobody up
    (tmp_path / "wake").touch()
    while any(worker.runs for worker in dispatcher.pools["pool"].workers):
        assert list(dispatcher.finished(0.2)) == []  # its answer comes too, and is not told again
    assert Counter(name for name, _ in runs(tmp_path))["sleep"] == 2


def test_a_worker_that_takes_too_long_is_given_up(
    dispatch: Callable[..., Dispatcher], tmp_path: Path
) -> None:
    dispatcher = dispatch(most=1, timeout_s=1.0)
    submit(dispatcher, "sleep", "ok")
    assert dict(drain(dispatcher)) == {"sleep": None, "ok": None}
    assert len({pid for _, pid in runs(tmp_path)}) == 2
    assert any(event.get("reason") == "took over 1 s" for event in events(tmp_path))


def test_the_newest_checkpoint_goes_first(
    dispatch: Callable[..., Dispatcher], tmp_path: Path
) -> None:
    dispatcher = dispatch(most=1)
    for step in (10, 30, 20):
        dispatcher.submit("pool", Report(suite=f"ok {step}"), rank=-step)
    drain(dispatcher)
    assert [name for name, _ in runs(tmp_path)] == ["ok 30", "ok 20", "ok 10"]


def test_workers_are_recycled_after_so_many_pictures(
    dispatch: Callable[..., Dispatcher], tmp_path: Path
) -> None:
    dispatcher = dispatch(most=1, recycle_after=4)
    submit(dispatcher, *(f"ok {number}" for number in range(10)))
    assert len(drain(dispatcher)) == 10
    counts = Counter(pid for _, pid in runs(tmp_path))
    assert len(counts) >= 2
    assert max(counts.values()) <= 4 + pool_module.AHEAD - 1


def test_idle_workers_are_let_go(dispatch: Callable[..., Dispatcher]) -> None:
    dispatcher = dispatch()
    submit(dispatcher, "ok 1", "ok 2")
    drain(dispatcher)
    assert dispatcher.pools["pool"].workers
    for worker in dispatcher.pools["pool"].workers:
        worker.idle_since_s -= pool_module.IDLE_S + 1
    list(dispatcher.finished(0.01))
    assert dispatcher.pools["pool"].workers == []


def test_an_actor_that_cannot_start_ends_the_farm_in_one_line(
    dispatch: Callable[..., Dispatcher],
) -> None:
    dispatcher = dispatch(at_start="raise")
    submit(dispatcher, "ok")
    with pytest.raises(MachineFault, match="no pool can start: RuntimeError: no such device"):
        drain(dispatcher)


def test_an_actor_that_is_killed_at_every_start_ends_the_farm_too(
    dispatch: Callable[..., Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "DEATHS_AT_START", 4)
    dispatcher = dispatch(at_start="die")
    submit(dispatcher, "ok")
    with pytest.raises(MachineFault, match="no pool can start: "):
        drain(dispatcher)


def test_a_full_disk_ends_the_farm_and_blames_no_unit(
    dispatch: Callable[..., Dispatcher],
) -> None:
    dispatcher = dispatch()
    submit(dispatcher, "full")
    with pytest.raises(OSError, match="No space left on device: '/pictures/1"):
        drain(dispatcher)


def test_a_pool_is_held_back_while_the_next_one_cannot_keep_up(tmp_path: Path) -> None:
    before, after = (Pool(name, lambda: None, most=1, recycle_after=9) for name in ("a", "b"))
    before.feeds = after
    unit: Unit = Report(suite="ok")
    for number in range(pool_module.BACKLOG_PER_WORKER + 1):
        assert not before.held_back
        after.put(pool_module.Lease(unit, (number,)))
    assert before.held_back
