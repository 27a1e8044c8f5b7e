"""Nodes that a run keeps away from for a while, because a failure was blamed on them."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.run_folder import RunFolder, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """The nodes of a run's record."""

    now: tuple[str, ...]
    """To be left out, the newest last."""
    expired: tuple[str, ...]
    """That may be used again."""


def exclude(run: RunFolder, node: str, *, hours: float, why: str) -> None:
    """Leave a node out of this run's jobs for so long."""
    state, now = read_json(run.state), time.time()
    others = [entry for entry in state.get("excluded", []) if entry["node"] != node]
    entry = {"node": node, "since": now, "until": now + 3600 * hours, "why": why}
    write_json(run.state, {**state, "excluded": [*others, entry]})


def excluded_nodes(state: dict[str, Any]) -> Excluded:
    """What a run's state.json says of nodes, now."""
    entries, now = state.get("excluded", []), time.time()
    return Excluded(
        now=tuple(entry["node"] for entry in entries if entry["until"] > now),
        expired=tuple(entry["node"] for entry in entries if entry["until"] <= now),
    )


def leave_enough(excluded: Iterable[str], there: Iterable[str], needed: int) -> list[str]:
    """The newest of the excluded nodes without which enough are left: none waits for ever."""
    left_out: list[str] = []
    usable = set(there)
    for node in reversed(list(excluded)):
        if len(usable - {node}) >= needed or node not in usable:
            usable.discard(node)
            left_out.append(node)
    return left_out
