"""Whether a metric is still getting better, and which steps were the best."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cluster.run_folder import RunFolder
from trainer.config import EarlyStopConfig


class Series(NamedTuple):
    """The values of a metric by step."""

    values: Mapping[int, float]
    higher_is_better: bool = False

    def best(self, count: int) -> list[int]:
        """The steps with the `count` best values, the best first; of equal ones the earlier."""
        sign = -1 if self.higher_is_better else 1
        return sorted(self.values, key=lambda step: (sign * self.values[step], step))[:count]


def read_series(run: RunFolder, metric: str, history: Mapping[str, Mapping[int, float]]) -> Series:
    """The series of a metric: the trainer's own from `history`, the farm's (suite/metric) from the
    verdict file that it keeps in eval/<suite>/.

    Empty while nothing is known. ValueError if the farm knows no such metric.
    """
    if "/" not in metric:
        return Series(history.get(metric, {}))
    suite, _, name = metric.partition("/")
    path = run.verdict(suite)
    return _farm_series(path, name) if path.is_file() else Series({})


def stalled(series: Series, config: EarlyStopConfig) -> bool:
    """Whether none of the last `patience` values was better than the best before them.

    Better by more than `min_delta` than the last value that was so.
    The rule of wikiart-lora's notebook, for any metric.
    """
    sign = -1 if series.higher_is_better else 1
    best, since = float("inf"), 0
    for step in sorted(series.values):
        value = sign * series.values[step]
        if value < best - config.min_delta:
            best, since = value, 0
        else:
            since += 1
    return since >= config.patience


def _farm_series(path: Path, name: str) -> Series:
    verdict = json.loads(path.read_text())
    metrics = verdict["metrics"]
    # A metric may be named without its variant, where there is only one.
    found = [key for key in metrics if name in (key, key.partition("/")[0])]
    if len(found) != 1:
        raise ValueError(
            f"{path} has {'more than one' if found else 'no'} metric {name}: it has "
            f"{', '.join(sorted(metrics))}"
        )
    entry = metrics[found[0]]
    values = {int(step): float(value) for step, value in entry["values"].items()}
    return Series(values, bool(entry["higher_is_better"]))
