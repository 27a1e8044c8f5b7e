"""The ends of an attempt's logs: whose they are, and how those who wrote them ended."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.run_folder import AttemptFolder

TAIL_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Log:
    """The end of what a rank, or the job itself, has printed."""

    name: str
    lines: tuple[str, ...]
    rank: int | None = None
    node: str | None = None
    exit_code: int | None = None
    """The rank's own; None if it was ended by a signal, or left no record."""
    failed_first: bool = False
    """Among the ranks of its node."""


def read_logs(
    attempt: AttemptFolder, records: Sequence[dict[str, Any]], hosts: Sequence[str]
) -> Iterator[Log]:
    """The log of every rank; first those of the nodes that ended first, in `records`' order.

    `hosts` tells the nodes of ranks of which no record tells.
    """
    per_node = max((len(record["ranks"]) for record in records), default=1)
    known = {}
    for record in records:
        for rank in record["ranks"]:
            known[rank["rank"]] = (record, rank)
    paths = {int(re.sub(r"\D", "", path.stem)): path for path in attempt.root.glob("rank-*.log")}
    for number in sorted(paths, key=lambda number: _place(number, list(known))):
        if number in known:
            record, rank = known[number]
            yield Log(
                name=paths[number].name,
                lines=_tail(paths[number]),
                rank=number,
                node=record["host"],
                exit_code=rank["exit_code"],
                failed_first=record["first_failed_rank"] == number,
            )
        else:
            place = number // per_node
            node = hosts[place] if place < len(hosts) else None
            yield Log(name=paths[number].name, lines=_tail(paths[number]), rank=number, node=node)


def _place(number: int, known: list[int]) -> tuple[int, int]:
    return (known.index(number) if number in known else len(known), number)


def _tail(path: Path) -> tuple[str, ...]:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        return tuple(file.read().decode(errors="replace").splitlines())
