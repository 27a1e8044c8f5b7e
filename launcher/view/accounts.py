"""The GPU-hours of a run as a table: a row for each attempt, and one for all."""

from typing import Any

from cluster.accounts.accounting import CAUSES, Account, total
from cluster.accounts.attempt_facts import accounts_of
from cluster.config import read_yaml
from cluster.run_folder import RunFolder
from cluster.table import align

UNKNOWN = "–"


def accounts_table(run: RunFolder, state: dict[str, Any]) -> list[str]:
    """What was used and useful, goodput, and what was lost to which cause; none before a start."""
    parts = accounts_of(run, state)
    if not parts:
        return []
    on_gpus = read_yaml(run.recipe)["train"].get("device", "cuda") == "cuda"
    unit = "GPU-hours" if on_gpus else "rank-hours"
    named = [(f"attempt {r['number']}", p) for r, p in zip(state["attempts"], parts, strict=True)]
    named += [("all", total(parts))] if len(parts) > 1 else []
    causes = [c for c in CAUSES if any(part.lost_s.get(c) for part in parts)]
    head = [unit, "requested", "used", "useful", "goodput", *(f"lost: {c}" for c in causes)]
    return align([head, *(_row(name, part, causes) for name, part in named)])


def _row(name: str, part: Account, causes: list[str]) -> list[str]:
    lost = [_hours(part.lost_s[cause]) if cause in part.lost_s else UNKNOWN for cause in causes]
    goodput = UNKNOWN if part.goodput is None else f"{part.goodput:.1%}"
    held = (part.requested_s, part.used_s, part.useful_s)
    return [name, *map(_hours, held), goodput, *lost]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3f}"
