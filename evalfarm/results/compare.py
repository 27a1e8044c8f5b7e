"""Two checkpoints on the same prompts and the same noise: which differences are real?

Every column is asked at once, and one in twenty would come out by chance alone: so a difference is
called real if Holm's p, over all columns of the comparison, is below 0.05. The 95 % intervals are
of each column by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import evalfarm.metrics  # noqa: F401  # registers them
from evalfarm.metrics.base import Metric, get
from evalfarm.results.record import Scored
from evalfarm.results.statistics import (
    CONFIDENCE,
    Estimate,
    bootstrap_difference,
    common_pictures,
    holm,
    mean_difference,
    whole_set,
)
from evalfarm.rows import Rows
from trainer.models.config import NetworksConfig


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What changed in one column from the first checkpoint to the second."""

    column: dict[str, Any]
    """As in results.json."""
    first: float
    second: float
    """Over the pictures that both have."""
    n: int
    """Those pictures."""
    estimate: Estimate | None
    """Of second - first; None where nothing tells how sure it is."""
    p: float = 1.0
    """Holm's, over all columns that are compared."""

    @property
    def word(self) -> str:
        """`better` or `worse` where the difference is real, `equal` where there is none, or
        `not clear`."""
        spread = self.estimate is not None and self.estimate.low < self.estimate.high
        if self.first == self.second and not spread:
            return "equal"
        if self.estimate is None or self.p >= 1 - CONFIDENCE:
            return "not clear"
        return "better" if (self.estimate.value > 0) == self.column["higher_is_better"] else "worse"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two checkpoints, column by column."""

    first: Scored
    second: Scored
    differences: list[Difference]
    left_out: dict[str, str]
    """Why a column is not compared, by its key."""


def compare(first: Scored, second: Scored) -> Comparison:
    """The second against the first; ValueError if they do not compare."""
    if first.record.asked != second.record.asked:
        raise ValueError(
            f"{first.given} and {second.given} do not compare: "
            f"{_shortened(first.record.asked)} is not {_shortened(second.record.asked)}"
        )
    if first.row["checkpoint"] == second.row["checkpoint"]:
        raise ValueError(f"{first.given} and {second.given} are the same weights")
    found: list[Difference] = []
    left_out = _in_one_only(first, second)
    for spec, columns in _common_columns(first, second).items():
        if spec in _unlike_references(first, second):
            left_out |= {column["key"]: "the real pictures are not the same" for column in columns}
            continue
        differences, reasons = _differences(get(spec, NetworksConfig()), columns, first, second)
        found += differences
        left_out |= reasons
    adjusted = holm([one.p for one in found])
    return Comparison(
        first=first,
        second=second,
        differences=[replace(one, p=p) for one, p in zip(found, adjusted, strict=True)],
        left_out=left_out,
    )


def _differences(
    metric: Metric, columns: Sequence[dict[str, Any]], first: Scored, second: Scored
) -> tuple[list[Difference], dict[str, str]]:
    """A metric's columns, and why some have no difference."""
    name = columns[0]["rows"]
    sides = [first.rows(name), second.rows(name)]
    if metric.references == "set":
        sides = [first.record.of_real_kind(rows) for rows in sides]
    before, after = common_pictures(sides)
    if not len(before):
        return [], {column["key"]: "no picture is scored on both sides" for column in columns}
    references = first.record.references(name)
    values = [metric.summarize(rows, references) for rows in (before, after)]
    there = [column for column in columns if all(column["column"] in side for side in values)]
    estimates = _estimates(metric, before, after, references)
    found = [
        Difference(
            column=column,
            first=values[0][column["column"]],
            second=values[1][column["column"]],
            n=len(before),
            estimate=(estimate := estimates.get(column["column"])),
            p=estimate.p if estimate else 1.0,
        )
        for column in there
    ]
    lacking = [column["key"] for column in columns if column not in there]
    return found, dict.fromkeys(lacking, f"it has no value over the {len(before)} common pictures")


def _estimates(
    metric: Metric, before: Rows, after: Rows, references: Rows
) -> dict[str, Estimate | None]:
    """The difference in each of a metric's columns, over the same pictures."""

    def summary(rows: Rows) -> Mapping[str, float]:
        return metric.summarize(rows, references)

    found: dict[str, Estimate | None] = {}
    if any(column.mean_of is None for column in metric.columns):
        resampled = bootstrap_difference(before, after, metric.resamples, summary)
        values = summary(before), summary(after)
        found = {
            name: whole_set(values[1][name] - values[0][name], some)
            for name, some in resampled.items()
        }
    for column in metric.columns:
        if column.mean_of:
            differences = after.numbers[column.mean_of] - before.numbers[column.mean_of]
            found[column.name] = mean_difference(differences, before.prompts)
    return found


def _common_columns(first: Scored, second: Scored) -> dict[str, list[dict[str, Any]]]:
    """By metric, the columns that both have."""
    keys = {column["key"] for column in second.record.results["columns"]}
    found: dict[str, list[dict[str, Any]]] = {}
    for column in first.record.results["columns"]:
        if column["key"] in keys and not column["spread"]:
            found.setdefault(column["metric"], []).append(column)
    return found


def _in_one_only(first: Scored, second: Scored) -> dict[str, str]:
    keys = [[c["key"] for c in side.record.results["columns"]] for side in (first, second)]
    only = {key: first.given for key in keys[0] if key not in keys[1]}
    only |= {key: second.given for key in keys[1] if key not in keys[0]}
    return {key: f"only {given} was scored by it" for key, given in only.items()}


def _unlike_references(first: Scored, second: Scored) -> set[str]:
    """The metrics that compare with real pictures, if those are others on the two sides."""
    results = [side.record.results for side in (first, second)]
    same = results[0]["references_checkpoint"] == results[1]["references_checkpoint"]
    return set() if same else {*results[0]["references"], *results[1]["references"]}


def _shortened(asked: str) -> str:
    """A suite with the start of its digest."""
    name, digest, *rest = asked.split(" ")
    return " ".join(["suite", name, digest[:8], *rest])
