"""Who did what and when: a line of JSON for every lease. For people and tests; nothing reads it."""

import json
import time
from pathlib import Path

from evalfarm.farm.pool import Lease, Pool, Worker
from evalfarm.work import Generate, Look


class WorkLog:
    """An open log; several farms after one another add to it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)

    def write(
        self,
        event: str,
        pool: Pool,
        worker: Worker | None,
        lease: Lease | None = None,
        reason: str | None = None,
    ) -> None:
        """Add a line: leased, leased again, done, failed, lost, set aside."""
        facts = {"time": round(time.time(), 3), "event": event, "pool": pool.name}
        if worker:
            facts["worker"] = worker.number
        if lease:
            facts |= {**_unit(lease), "try": lease.tries + 1}
        if reason:
            facts["reason"] = reason
        self._file.write(json.dumps(facts, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _unit(lease: Lease) -> dict[str, object]:
    unit = lease.unit
    facts: dict[str, object] = {"suite": unit.suite}
    if isinstance(unit, Generate):
        facts |= {"checkpoint": unit.checkpoint[:8], "first": unit.items[0].prompt}
    if isinstance(unit, Look):
        facts |= {"checkpoint": unit.checkpoint[:8], "first": unit.pictures[0].prompt}
    return facts | {"pictures": len(unit)}
