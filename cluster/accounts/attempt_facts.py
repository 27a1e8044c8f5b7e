"""What a run's attempts left, read for accounting.py and written where people look."""

import contextlib
import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from cluster.accounts.accounting import Account, AttemptFacts, Steps, accounts, total
from cluster.config import read_yaml
from cluster.exit_codes import ExitCode
from cluster.hangs.heartbeat import read_heartbeats
from cluster.run_folder import AttemptFolder, RunFolder, published_steps


def accounts_of(run: RunFolder, state: dict[str, Any]) -> list[Account]:
    """The account of each attempt that `state`, the run's state.json, knows of."""
    facts = [attempt_facts(run, record) for record in state["attempts"]]
    newest = max((step for step, _ in published_steps(run.checkpoints)), default=0)
    return accounts(facts, newest)


def add_accounts(run: RunFolder, state: dict[str, Any]) -> None:
    """Give `state` the GPU-hours of each attempt, and of the run."""
    parts = accounts_of(run, state)
    for record, part in zip(state["attempts"], parts, strict=True):
        record["gpu_hours"] = part.hours()
    state["gpu_hours"] = total(parts).hours()


def attempt_facts(run: RunFolder, record: dict[str, Any]) -> AttemptFacts:
    """The facts of the attempt that `record`, of state.json, is about."""
    attempt = run.attempt(record["number"])
    events, nodes = list(read_events(attempt)), attempt.node_records()
    start = next((event for event in events if event["event"] == "start"), None)
    code = record.get("exit_code")
    return AttemptFacts(
        number=record["number"],
        ranks=start["ranks"] if start else _asked_ranks(run, nodes),
        queued=record.get("queued"),
        started=record["started"],
        ended=_ended(record, attempt, events, nodes),
        failed=code not in (None, ExitCode.DONE, ExitCode.STOPPED),
        running=code is None,
        hung=any(node.get("hang") for node in nodes),
        resumed_from=start["step"] if start else None,
        steps=_steps(events, attempt),
        saved=frozenset(event["step"] for event in events if event["event"] == "checkpoint"),
        validated={e["step"]: e["time"] for e in events if e["event"] == "validation"},
    )


def read_events(attempt: AttemptFolder) -> Iterator[dict[str, Any]]:
    """The events of an attempt; a line that was cut off, by a kill or a full disk, is none."""
    if attempt.events.exists():
        for line in attempt.events.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _steps(events: list[dict[str, Any]], attempt: AttemptFolder) -> list[Steps]:
    """Steps that were read together share their images/s, over all of the time between readings."""
    beats = read_heartbeats(attempt)
    steps = [event for event in events if event["event"] == "step"]
    found = []
    for images_per_s, group in groupby(steps, key=lambda event: event["images_per_s"]):
        read = list(group)
        found.append(
            Steps(
                first=read[0]["step"],
                last=read[-1]["step"],
                ended=read[0]["time"],
                step_s=beats[0]["images_per_step"] / images_per_s,
            )
        )
    return found


def _ended(
    record: dict[str, Any],
    attempt: AttemptFolder,
    events: list[dict[str, Any]],
    nodes: list[dict[str, Any]],
) -> float:
    """When the last of its ranks ended; the farm may go on after them, on cores of its own."""
    if nodes:
        return float(max(node["ended"] for node in nodes))
    if "ended" in record:
        return float(record["ended"])
    signs = [event["time"] for event in events] + [b["time"] for b in read_heartbeats(attempt)]
    return float(max(signs, default=record["started"]))


def _asked_ranks(run: RunFolder, nodes: list[dict[str, Any]]) -> int:
    """Those that were started or, where none was, the recipe's."""
    started = sum(len(node["ranks"]) for node in nodes)
    if started:
        return started
    ranks = read_yaml(run.recipe).get("ranks") or {}
    return int(ranks.get("nodes", 1) * ranks.get("per_node", 1))
