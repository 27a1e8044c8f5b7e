"""A metric's numbers of a checkpoint with their intervals, computed once for the same rows."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from evalfarm.metrics.base import Column, Metric, column_key
from evalfarm.results.statistics import Estimate, bootstrap, mean, whole_set
from evalfarm.rows import Rows

RULES = "2"  # raised when values or intervals are computed otherwise: then none is taken over
PARTS = ("values", "intervals", "n")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a metric says of a checkpoint, by column key."""

    rests_on: str
    """SHA-256 of the rows that it is made of."""
    values: dict[str, float]
    intervals: dict[str, list[float]]
    """Low and high of 95 %; left out where nothing can be said."""
    n: dict[str, int]
    """Pictures in each value."""


class Summaries:
    """Makes summaries, and takes over those of earlier results that rest on the same rows.

    The interval of a distance costs seconds, and most checkpoints have not changed.
    """

    def __init__(self, results: Mapping[str, Any] | None) -> None:
        rows = results["rows"] if results else []
        self._known = {digest: row for row in rows for digest in row.get("rests_on", {}).values()}

    def of(self, metric: Metric, rows: Rows, references: Rows) -> Summary:
        """A metric's summary."""
        keys = {column.name: column_key(metric, column) for column in metric.columns}
        digest = _digest(metric, rows, references)
        if digest in self._known:
            known = self._known[digest]
            mine = keys.values()
            parts = {part: {k: v for k, v in known[part].items() if k in mine} for part in PARTS}
            return Summary(rests_on=digest, **parts)
        values = metric.summarize(rows, references) if len(rows) else {}
        found = _intervals(metric, rows, references, values)
        return Summary(
            rests_on=digest,
            values={key: values[name] for name, key in keys.items() if name in values},
            intervals={keys[name]: [one.low, one.high] for name, one in found.items()},
            n={keys[c.name]: _count(c, rows) for c in metric.columns if c.name in values},
        )


def _count(column: Column, rows: Rows) -> int:
    """The pictures in a column's value."""
    if column.only_with is None:
        return len(rows)
    return int((rows.numbers[column.only_with] > 0).sum())


def _intervals(
    metric: Metric, rows: Rows, references: Rows, values: Mapping[str, float]
) -> dict[str, Estimate]:
    """By column; one that nothing can be said of is left out."""
    there = [column for column in metric.columns if column.name in values]
    resampled = {}
    if any(column.mean_of is None for column in there):
        resampled = bootstrap(
            rows, metric.resamples, lambda some: metric.summarize(some, references)
        )
    found: dict[str, Estimate | None] = {}
    for column in there:
        if column.mean_of:
            found[column.name] = mean(rows.numbers[column.mean_of], rows.prompts)
        elif column.name in resampled:
            found[column.name] = whole_set(values[column.name], resampled[column.name])
    return {name: estimate for name, estimate in found.items() if estimate}


def _digest(metric: Metric, rows: Rows, references: Rows) -> str:
    names = [column.name for column in metric.columns]
    says = [RULES, metric.name, metric.variant, metric.rows, metric.resamples, names]
    digest = hashlib.sha256(json.dumps(says).encode())
    for some in (rows, references):
        arrays: dict[str, NDArray[Any]] = {
            "prompts": some.prompts,
            "samples": some.samples,
            **some.numbers,
        }
        if some.features is not None:
            arrays["features"] = some.features
        for name, values in arrays.items():
            digest.update(f"{name} {values.dtype} {values.shape} ".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()
