"""Leasing units of work to Ray actors, and taking back what dies with them.

Ray's own pools lose an item with its actor, and its retries run an item twice without a word. Here
a unit is leased to one actor with a deadline; if that dies or is late, the unit goes to another,
and one that takes far longer than usual goes to an idle one too. A unit that fails too often is
given up with its error. The caller commits each result under a key, so that twice done is once
counted.
"""

import itertools
import time
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.exit_codes import MachineFault
from cluster.program import STORAGE_ERRORS
from evalfarm.farm.pool import Lease, Pool, Worker
from evalfarm.farm.work_log import WorkLog
from evalfarm.work import Result, Unit

RAISES_AT_START, DEATHS_AT_START = 3, 10
"""How often in a row actors may fail at starting, by an error of theirs and by being killed."""
GET_TIMEOUT_S = 60.0
BORN_DEAD = "creation task"
NODE_GONE = ("node was", "node has died", "node is dead", "node died")
"""How Ray says that an actor could not start, and that it died with its machine."""


class Dispatcher:
    """Keeps the actors of some pools busy."""

    def __init__(
        self, pools: Sequence[Pool], log: WorkLog, *, max_tries: int, timeout_s: float
    ) -> None:
        self.pools = {pool.name: pool for pool in pools}
        self.max_tries = max_tries
        self.timeout_s = timeout_s
        self._log = log
        self._numbers = itertools.count()

    def submit(self, pool: str, unit: Unit, rank: int = 0) -> None:
        """Let a unit wait for a worker: the least rank goes first, then the first to come."""
        self.pools[pool].put(Lease(unit, (rank, next(self._numbers))))

    @property
    def idle(self) -> bool:
        """Whether nothing is queued and nothing is being worked on."""
        return not any(pool.waiting or pool.active for pool in self.pools.values())

    def finished(self, wait_s: float) -> Iterator[tuple[Unit, Result]]:
        """Hand out work, wait a while, and yield what has come back or is given up."""
        for pool in self.pools.values():
            self._hand_out(pool)
        waits = {w.waits_for: (p, w) for p in self.pools.values() for w in p.workers if w.waits_for}
        if not waits:
            time.sleep(wait_s)
            return
        ready, _ = ray.wait(list(waits), num_returns=1, timeout=wait_s)
        if ready:  # what has come at the same time
            ready, _ = ray.wait(list(waits), num_returns=len(waits), timeout=0)
        for answer in ready:
            yield from self._take(*waits[answer])
        for pool, worker in waits.values():
            if self._is_late(worker):
                yield from self._lost(pool, worker, f"took over {self.timeout_s:.0f} s")

    def _hand_out(self, pool: Pool) -> None:
        pool.staff()
        for worker, lease in pool.hand_out():
            self._log.write("leased", pool, worker, lease)
        for worker, lease in pool.stragglers():
            pool.give(worker, lease)
            self._log.write("leased again", pool, worker, lease, reason="it takes long")

    def _is_late(self, worker: Worker) -> bool:
        if worker.starting or not worker.runs:
            return False
        return time.monotonic() - worker.runs[0].started_s > self.timeout_s

    def _take(self, pool: Pool, worker: Worker) -> Iterator[tuple[Unit, Result]]:
        if worker.starting:
            yield from self._started(pool, worker)
            return
        try:
            result = ray.get(worker.runs[0].answer, timeout=GET_TIMEOUT_S)
        except RayTaskError as error:
            yield from self._raised(pool, worker, error)
        except RayError as error:
            yield from self._lost(pool, worker, f"the worker died: {_first_line(error)}")
        else:
            lease = pool.take(worker, succeeded=True)
            self._log.write("done", pool, worker, lease)
            if not lease.done:
                lease.done = True
                yield lease.unit, result

    def _started(self, pool: Pool, worker: Worker) -> Iterator[tuple[Unit, Result]]:
        try:
            ray.get(worker.starting, timeout=GET_TIMEOUT_S)
        except RayError as error:
            text = str(error)
            pool.deaths_at_start += not _is_node_gone(text)
            limit = RAISES_AT_START if BORN_DEAD in text else DEATHS_AT_START
            if pool.deaths_at_start >= limit:
                raise MachineFault(f"no {pool.name} can start: {_last_line(error)}") from error
            yield from self._lost(pool, worker, f"could not start: {_first_line(error)}")
        else:
            worker.starting = None
            worker.idle_since_s = time.monotonic()

    def _raised(
        self, pool: Pool, worker: Worker, error: RayTaskError
    ) -> Iterator[tuple[Unit, Result]]:
        """The actor lives, and says what went wrong."""
        cause = error.cause
        if isinstance(cause, OSError) and cause.errno in STORAGE_ERRORS:
            raise OSError(*cause.args, cause.filename) from error  # the next unit fares no better
        lease = pool.take(worker, succeeded=False)
        lease.tries += 1
        words = f"{type(cause).__name__}: {cause}"
        self._log.write("failed", pool, worker, lease, reason=words)
        yield from self._again(pool, lease, words)

    def _lost(self, pool: Pool, worker: Worker, error: str) -> Iterator[tuple[Unit, Result]]:
        """The actor is gone or given up: what it was at has failed, the rest was not begun."""
        pool.remove(worker)
        self._log.write("lost", pool, worker, reason=error)
        first = not _is_node_gone(error)  # a node's end is no unit's fault
        while worker.runs:
            lease = pool.take(worker, succeeded=False)
            lease.tries += first
            first = False
            yield from self._again(pool, lease, error)

    def _again(self, pool: Pool, lease: Lease, error: str) -> Iterator[tuple[Unit, Result]]:
        if lease.done or lease.runs:
            return
        if lease.tries < self.max_tries:
            pool.put(lease)
            return
        lease.done = True
        self._log.write("set aside", pool, None, lease, reason=error)
        yield lease.unit, lease.unit.failed(f"after {lease.tries} tries: {error}")


def _is_node_gone(error: str) -> bool:
    return any(words in error for words in NODE_GONE)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2].strip()
