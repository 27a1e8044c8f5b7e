"""What the numbers advise: the best step of each metric, its trend, and whether to stop.

A trainer and a launcher may act on verdict.json. By metric: `higher_is_better`; `values` by step,
of exports that are scored whole; `best_step`, of equal ones the earlier; `since_best`, how many
values came after it; `stop`, whether those are at least `patience`. That is the trainer's own rule
(train.early_stop), which brings its own patience and `min_delta`.

`trend` is the slope of the last values over the steps, by least squares. For a mean over pictures
it is the mean of each picture's own slope, with an interval clustered by prompt: what makes a
prompt hard at all steps falls out. A number of the whole set has a slope without one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfarm.evaluation import Evaluation
from evalfarm.metrics.base import Column, Metric, column_key
from evalfarm.results.statistics import common_pictures, mean_difference

PATIENCE = 3
TREND_VALUES = 4
TREND_STEPS = 1000
"""A slope is given per so many steps."""


def verdict(evaluation: Evaluation, results: Mapping[str, Any]) -> dict[str, Any]:
    """What verdict.json holds."""
    whole = [row for row in results["rows"] if row["complete"] and row["step"] is not None]
    rows = list({row["step"]: row for row in whole}.values())  # of an export made anew the latest
    return {
        "suite": results["suite"],
        "patience": PATIENCE,
        "metrics": {
            column_key(metric, column): _of_column(evaluation, metric, column, rows)
            for metric in evaluation.metrics.values()
            for column in metric.columns
            if not column.spread
        },
    }


def best_step(values: Mapping[int, float], *, higher_is_better: bool) -> int | None:
    """The step of the best value, of equal ones the earlier; None without values."""
    sign = -1 if higher_is_better else 1
    return min(values, key=lambda step: (sign * values[step], step), default=None)


def _of_column(
    evaluation: Evaluation, metric: Metric, column: Column, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    key, higher = column_key(metric, column), column.higher_is_better
    rows = sorted((row for row in rows if key in row["values"]), key=lambda row: int(row["step"]))
    values = {int(row["step"]): float(row["values"][key]) for row in rows}
    best = best_step(values, higher_is_better=higher)
    since = sum(step > best for step in values) if best is not None else 0
    return {
        "higher_is_better": higher,
        "values": {str(step): value for step, value in values.items()},
        "best_step": best,
        "since_best": since,
        "stop": since >= PATIENCE,
        "trend": _trend(evaluation, metric, column, rows[-TREND_VALUES:]),
    }


def _trend(
    evaluation: Evaluation, metric: Metric, column: Column, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Slope of the last values, where there are three at least."""
    if len(rows) < 3:
        return None
    steps = [int(row["step"]) for row in rows]
    slope = _slopes(steps, np.array([[row["values"][column_key(metric, column)]] for row in rows]))
    found: dict[str, Any] = {"steps": steps, "per_1000_steps": float(slope[0])}
    if column.mean_of:
        pictures = common_pictures(
            [evaluation.ledger.rows(row["checkpoint"], metric.rows) for row in rows]
        )
        numbers = np.array([some.numbers[column.mean_of] for some in pictures])
        estimate = mean_difference(_slopes(steps, numbers), pictures[0].prompts)
        if estimate:
            found |= {"low": estimate.low, "high": estimate.high, "p": estimate.p}
    return found


def _slopes(steps: Sequence[int], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares slopes of values (steps pictures) over the steps."""
    away = np.array(steps) - np.mean(steps)
    slopes: NDArray[np.float64] = TREND_STEPS * (away @ values) / (away @ away)
    return slopes
