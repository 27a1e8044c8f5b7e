"""LAION's filters, for its metadata and for what img2dataset saved of it: which rows pass, and why
the others do not.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.rows import open_parquet
from trainer.data.config import LaionConfig

# Filter -> names of its column, in lower case, the first that is there. LAION writes WIDTH, its
# aesthetic subsets AESTHETIC_SCORE; what img2dataset calls width is the picture as it stored it.
COLUMNS = {
    "width": ("original_width", "width"),
    "height": ("original_height", "height"),
    "similarity": ("similarity",),
    "pwatermark": ("pwatermark",),
    "punsafe": ("punsafe",),
    "aesthetic": ("aesthetic", "aesthetic_score"),
    "language": ("language",),
}
URL_COLUMNS = ("url",)
TEXT_COLUMNS = ("caption", "text")
NOT_LISTED = "not in the metadata"

Column = Callable[[Sequence[str]], Sequence[Any]]
"""The values of the first of the named columns that there is; ValueError if there is none."""


class Rule(NamedTuple):
    """One filter of a recipe; its limits pass."""

    name: str
    low: float = -np.inf
    high: float = np.inf
    choices: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why a row is left out, as it is counted."""
        if self.choices:
            return f"{self.name} not {' or '.join(self.choices)}"
        is_low = self.low > -np.inf
        return f"{self.name} < {self.low:g}" if is_low else f"{self.name} > {self.high:g}"

    def refuses(self, values: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which values fail, and which are not known."""
        if self.choices:
            unknown = np.array([value is None for value in values], bool)
            passes = np.array([value in self.choices for value in values], bool)
        else:
            numbers = _numbers(values)
            unknown = np.isnan(numbers)
            passes = (numbers >= self.low) & (numbers <= self.high)
        return ~passes & ~unknown, unknown


def rules(config: LaionConfig) -> list[Rule]:
    """The filters that a recipe sets."""
    low = {
        "width": config.min_width or None,
        "height": config.min_height or None,
        "similarity": config.min_similarity,
        "aesthetic": config.min_aesthetic,
    }
    high = {"pwatermark": config.max_pwatermark, "punsafe": config.max_punsafe}
    found = [Rule(name, low=limit) for name, limit in low.items() if limit is not None]
    found += [Rule(name, high=limit) for name, limit in high.items() if limit is not None]
    return [*found, Rule("language", choices=config.languages)] if config.languages else found


def reasons(config: LaionConfig) -> list[str]:
    """What the numbers of `judge` mean; 0 passes."""
    failed = [reason for rule in rules(config) for reason in (rule.reason, f"{rule.name} unknown")]
    return ["", *failed, NOT_LISTED]


def judge(column: Column, rows: int, config: LaionConfig) -> NDArray[np.uint8]:
    """For each row the first filter that it fails, as a place among `reasons`; 0 passes all."""
    verdicts = np.zeros(rows, np.uint8)
    for place, rule in enumerate(rules(config)):
        failed, unknown = rule.refuses(column(COLUMNS[rule.name]))
        verdicts[(verdicts == 0) & failed] = 2 * place + 1
        if rule.name not in config.keep_unknown:
            verdicts[(verdicts == 0) & unknown] = 2 * place + 2
    return verdicts


def metadata_files(path: Path) -> list[Path]:
    """The parquet file, or all in a folder."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise ValueError(f"laion.metadata {path} holds no .parquet file")
    return files


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """A parquet file piece by piece; ValueError if it lacks one of the columns."""
    file = open_parquet(path)
    lacking = set(columns).difference(file.schema_arrow.names)
    if lacking:
        raise ValueError(f"{path} has no column {', '.join(sorted(lacking))}, unlike others there")
    yield from file.iter_batches(columns=list(columns))


def column_of(batch: Any, path: Path) -> Column:
    """The columns of a piece of `path`, whatever the case of their names."""
    by_name = {name.lower(): name for name in reversed(batch.schema.names)}

    def column(names: Sequence[str]) -> Sequence[Any]:
        for name in names:
            if name in by_name:
                values: Sequence[Any] = batch.column(by_name[name]).to_numpy(zero_copy_only=False)
                return values
        raise ValueError(
            f"{path} has no column {' or '.join(names)}, only {', '.join(batch.schema.names)}: "
            "leave out this filter"
        )

    return column


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """The values as numbers; null and what is no number are nan."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":  # a parquet column
        return values.astype(float)
    return np.array([_number(value) for value in values], float)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
