"""Ray actors that do one kind of work: started where there is room, replaced, recycled, let go."""

import contextlib
import heapq
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from evalfarm.work import Look, Unit

AHEAD = 2
"""Units that a worker holds where there are plenty: it need not wait for the driver's next one."""
BACKLOG_PER_WORKER = 4
"""Units waiting for each worker of the next pool, at which the pool before it is held back."""
IDLE_S = 60.0
"""A worker without work so long is let go: its GPU may be wanted elsewhere."""
STRAGGLER = 4.0
"""How many times the usual time a unit may take before an idle worker gets it too."""
STRAGGLER_LEAST_S = 10.0


@dataclass(eq=False)
class Lease:
    """A unit of work with its history."""

    unit: Unit
    rank: tuple[int, ...]
    """The least goes first."""
    tries: int = 0
    runs: int = 0
    """How many workers have it now."""
    done: bool = False

    def __lt__(self, other: "Lease") -> bool:
        return self.rank < other.rank


@dataclass(eq=False)
class Run:
    """A lease at a worker."""

    lease: Lease
    answer: Any
    started_s: float = 0.0
    """When it became the first that its worker has to do."""


@dataclass(eq=False)
class Worker:
    """An actor and what it has to do, in that order."""

    number: int
    actor: Any
    starting: Any
    """Answers once the actor is up; None from then on."""
    runs: deque[Run] = field(default_factory=deque)
    pictures: int = 0
    idle_since_s: float = field(default_factory=time.monotonic)

    @property
    def waits_for(self) -> Any:
        """What it will answer next; None if it has nothing to do."""
        return self.starting if self.starting else self.runs[0].answer if self.runs else None


class Pool:
    """Actors that do the same kind of work, and the units that wait for them.

    As many are asked of Ray as there is work for, up to `most`. Ray starts them where and when
    there is room, so the pool grows with the cluster; actors die with their node, and are asked
    for again.
    """

    def __init__(
        self, name: str, start_actor: Callable[[], Any], *, most: int, recycle_after: int
    ) -> None:
        self.name = name
        self.most = most
        self.feeds: Pool | None = None
        """The pool that goes on with what this one makes."""
        self.lets_go = True
        """Whether a worker that has had no work for long makes room for others."""
        self.workers: list[Worker] = []
        self.deaths_at_start = 0
        """In a row."""
        self._start_actor = start_actor
        self._recycle_after = recycle_after
        self._queue: list[Lease] = []
        self._seconds: deque[float] = deque(maxlen=50)
        self._started = 0

    @property
    def waiting(self) -> int:
        """Units that no worker has."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """Units that workers have, but for those that another has done already."""
        return sum(not run.lease.done for worker in self.workers for run in worker.runs)

    @property
    def up(self) -> int:
        """Workers that have started."""
        return sum(worker.starting is None for worker in self.workers)

    @property
    def held_back(self) -> bool:
        """Whether what this pool makes piles up already."""
        after = self.feeds
        return after is not None and after.backlog > BACKLOG_PER_WORKER * max(1, after.up)

    @property
    def backlog(self) -> int:
        """Units that wait here and that another pool has made: none does of real pictures."""
        return sum(not _is_of_real(lease.unit) for lease in self._queue)

    def put(self, lease: Lease) -> None:
        """Let a unit wait for a worker."""
        heapq.heappush(self._queue, lease)

    def staff(self) -> None:
        """Ask for as many actors as there is work for; let those go that have had none for long."""
        waiting = 0 if self.held_back else self.waiting  # else it would take the next pool's room
        wanted = min(self.most, waiting + self.active)
        while len(self.workers) < wanted:
            self.start_worker()
        now_s = time.monotonic()
        for worker in [*self.workers]:
            is_idle = not waiting and now_s - worker.idle_since_s > IDLE_S
            if not worker.runs and ((is_idle and self.lets_go) or self._is_used_up(worker)):
                self.remove(worker)

    def remove(self, worker: Worker) -> None:
        """End an actor; what it had to do is the caller's."""
        self.workers.remove(worker)
        with contextlib.suppress(RayError):
            ray.kill(worker.actor)

    def hand_out(self) -> list[tuple[Worker, Lease]]:
        """Give the waiting units to workers that have room, the least busy first; who got what."""
        given: list[tuple[Worker, Lease]] = []
        if self.held_back:
            return given
        while self._queue:
            worker = self._worker_with_room()
            if worker is None:
                break
            lease = heapq.heappop(self._queue)
            if not lease.done:
                self.give(worker, lease)
                given.append((worker, lease))
        return given

    def give(self, worker: Worker, lease: Lease) -> None:
        """Let a worker do a unit, after what it has to do already."""
        lease.runs += 1
        worker.runs.append(Run(lease, worker.actor.run.remote(lease.unit), time.monotonic()))

    def take(self, worker: Worker, *, succeeded: bool) -> Lease:
        """The unit that a worker has ended with."""
        run = worker.runs.popleft()
        run.lease.runs -= 1
        now_s = time.monotonic()
        if succeeded:
            self.deaths_at_start = 0
            self._seconds.append(now_s - run.started_s)
            worker.pictures += len(run.lease.unit)
        worker.idle_since_s = now_s
        if worker.runs:
            worker.runs[0].started_s = now_s
        return run.lease

    def stragglers(self) -> list[tuple[Worker, Lease]]:
        """Units that take far longer than usual, each with an idle worker that could do it too."""
        if self._queue or len(self._seconds) < 3:
            return []
        limit_s = max(STRAGGLER_LEAST_S, STRAGGLER * statistics.median(self._seconds))
        now_s = time.monotonic()
        idle = [w for w in self.workers if not w.runs and not w.starting]
        held_up = [  # what waits behind a slow one too
            run.lease
            for worker in self.workers
            if worker.runs and now_s - worker.runs[0].started_s > limit_s
            for run in worker.runs
        ]
        alone = [lease for lease in held_up if lease.runs == 1 and not lease.done]
        return list(zip(idle, alone, strict=False))

    def start_worker(self) -> None:
        """Ask Ray for one more actor."""
        actor = self._start_actor()
        self.workers.append(Worker(self._started, actor, actor.started.remote()))
        self._started += 1

    def _worker_with_room(self) -> Worker | None:
        room = AHEAD if self.waiting > len(self.workers) else 1
        able = [
            worker
            for worker in self.workers
            if not worker.starting and len(worker.runs) < room and not self._is_used_up(worker)
        ]
        return min(able, key=lambda worker: len(worker.runs), default=None)

    def _is_used_up(self, worker: Worker) -> bool:
        return worker.pictures >= self._recycle_after


def _is_of_real(unit: Unit) -> bool:
    """Whether it is about real pictures: those no pool makes."""
    return isinstance(unit, Look) and unit.real
