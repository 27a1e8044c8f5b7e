"""Leasing units of work to Ray actors, and taking back what dies with them.

Ray's own pools lose an item with its actor, and its retries run an item twice without a word. Here
a unit is leased to one actor with a deadline; if that dies or is late, the unit goes to another. A
unit that fails too often is given up with its error. The caller commits each result under a key, so
that twice done is once counted.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from evalfarm.work import Result, Unit


@dataclass
class Lease:
    """A unit of work with its history."""

    unit: Unit
    tries: int = 0
    deadline_s: float = 0.0
    errors: list[str] = field(default_factory=list)


@dataclass
class Worker:
    """An actor and what it is working on."""

    actor: Any
    lease: Lease | None = None
    answer: Any = None


class Pool:
    """Actors that do the same kind of work."""

    def __init__(self, start_actor: Callable[[], Any], size: int) -> None:
        self.start_actor = start_actor
        self.workers = [Worker(start_actor()) for _ in range(size)]
        self.queue: deque[Lease] = deque()

    def replace(self, worker: Worker) -> None:
        """Put a new actor in the place of one that died or hangs."""
        with contextlib.suppress(RayError):
            ray.kill(worker.actor)
        worker.actor, worker.lease, worker.answer = self.start_actor(), None, None


class Dispatcher:
    """Keeps the actors of some pools busy."""

    def __init__(self, pools: dict[str, Pool], *, max_tries: int, timeout_s: float) -> None:
        self.pools = pools
        self.max_tries = max_tries
        self.timeout_s = timeout_s

    def submit(self, pool: str, unit: Unit) -> None:
        """Put a unit at the end of a pool's queue."""
        self.pools[pool].queue.append(Lease(unit))

    @property
    def idle(self) -> bool:
        """Whether nothing is queued and nothing is being worked on."""
        return not any(
            pool.queue or any(worker.lease for worker in pool.workers)
            for pool in self.pools.values()
        )

    def finished(self, wait_s: float) -> Iterator[tuple[Unit, Result]]:
        """Hand out work, wait a while, and yield what has come back or is given up."""
        self._hand_out()
        busy = {w.answer: (p, w) for p in self.pools.values() for w in p.workers if w.lease}
        if not busy:
            time.sleep(wait_s)
            return
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=wait_s)
        for answer in ready:
            yield from self._take(*busy[answer])
        now_s = time.monotonic()
        for pool, worker in busy.values():
            if worker.lease and worker.lease.deadline_s < now_s:
                yield from self._failed(pool, worker, f"took over {self.timeout_s:.0f} s")

    def _hand_out(self) -> None:
        for pool in self.pools.values():
            for worker in pool.workers:
                if worker.lease is None and pool.queue:
                    worker.lease = pool.queue.popleft()
                    worker.lease.tries += 1
                    worker.lease.deadline_s = time.monotonic() + self.timeout_s
                    worker.answer = worker.actor.run.remote(worker.lease.unit)

    def _take(self, pool: Pool, worker: Worker) -> Iterator[tuple[Unit, Result]]:
        assert worker.lease is not None
        try:
            result = ray.get(worker.answer, timeout=self.timeout_s)
        except RayTaskError as error:
            cause = f"{type(error.cause).__name__}: {error.cause}"
            yield from self._failed(pool, worker, cause, alive=True)
        except RayError as error:
            yield from self._failed(pool, worker, f"the worker died: {_first_line(error)}")
        else:
            unit = worker.lease.unit
            worker.lease = None
            yield unit, result

    def _failed(
        self, pool: Pool, worker: Worker, error: str, *, alive: bool = False
    ) -> Iterator[tuple[Unit, Result]]:
        lease = worker.lease
        assert lease is not None
        if alive:
            worker.lease = None
        else:
            pool.replace(worker)
        lease.errors.append(error)
        if lease.tries < self.max_tries:
            pool.queue.appendleft(lease)
        else:
            yield lease.unit, lease.unit.failed(f"after {lease.tries} tries: {error}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
