"""What a metric is, and how one is found by name.

A metric looks at pictures in a scoring actor, and leaves numbers or features of each in the ledger.
Its summary is made from the ledger's rows alone, by whoever reads them: however the pictures were
split over workers, it is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evalfarm.networks import Networks, missing_network, short_digest
from evalfarm.rows import Rows
from trainer.models.config import NetworksConfig

MetricType = type["Metric"]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number that a metric reports."""

    name: str
    title: str
    """As it heads a table."""
    unit: str
    higher_is_better: bool
    decimals: int = 3
    mean_of: str | None = None
    """The number of each picture that this is the mean of; None: it is made of the whole set."""
    only_with: str | None = None
    """The number of each picture that must be above 0 for it to count; None: all count."""
    spread: bool = False
    """Whether it only says how much another column varies: neither better nor worse."""
    headline: bool = True
    """Whether a table of text has room for it; the report and the curves show all."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a metric says of one picture."""

    numbers: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A picture, and what it should show."""

    image: Image.Image
    """RGB."""
    prompt: str = ""
    words: tuple[str, ...] = ()
    """The words that should be legible, in lower case."""
    target: Image.Image | None = None
    """The real picture that it is compared with, RGB."""


class Batch(Sequence[Asked]):
    """Pictures that are looked at together. What several metrics need of them is made once."""

    def __init__(self, asked: Sequence[Asked], networks: Networks) -> None:
        self._asked = list(asked)
        self.networks = networks
        self._made: dict[str, Any] = {}

    def __getitem__(self, place: Any) -> Any:
        return self._asked[place]

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def images(self) -> list[Image.Image]:
        """The pictures, RGB."""
        return [asked.image for asked in self._asked]

    @property
    def prompts(self) -> list[str]:
        """What each should show."""
        return [asked.prompt for asked in self._asked]

    def once(self, name: str, make: Callable[[], Value]) -> Value:
        """What `make` made the first time it was asked for of these pictures under this name."""
        if name not in self._made:
            self._made[name] = make()
        made: Value = self._made[name]
        return made


class Metric(ABC):
    """A measure of pictures, in one of its modes. Making one is cheap: networks come with looking.

    It takes part in the driver, which has neither pictures nor networks, and in scoring actors.
    """

    modes: ClassVar[tuple[str, ...]] = ("",)
    """What may follow its name and a slash; the first is meant where nothing does."""
    columns: tuple[Column, ...]
    """What its summary reports; the modes of one metric may differ in it."""
    references: ClassVar[Literal["none", "set", "pairs"]] = "none"
    """Whether it compares with a set of real pictures, or each picture with one."""
    resamples: ClassVar[int] = 200
    """How often a column made of the whole set is computed anew for its interval. At 200 the
    standard error is known to 5 %, at 20 to 16 %. Few where once costs seconds; 0 gives none."""

    def __init__(self, mode: str, networks: NetworksConfig) -> None:
        self.mode = mode
        self.networks = networks

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return next(name for name, metric in _METRICS.items() if metric is type(self))

    @abstractmethod
    def absent(self) -> str | None:
        """Why it cannot be measured here, and what would mend it; None if it can."""

    @property
    @abstractmethod
    def variant(self) -> str:
        """Which rules, `@` and which weights: two numbers of one name and variant compare.

        A change of the rules changes it too. It is asked for again and again.
        """

    @property
    def rows(self) -> str:
        """What its rows are called in the ledger; metrics that look alike may share them."""
        return f"{self.name}/{self.variant}"

    @abstractmethod
    def look(self, batch: Batch) -> list[Seen]:
        """What there is to say of each picture."""

    @abstractmethod
    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The columns' values, by name; what cannot be computed is left out."""

    def means(self, rows: Rows) -> dict[str, float]:
        """The columns that are means over the pictures."""
        return {
            column.name: float(np.mean(rows.numbers[column.mean_of]))
            for column in self.columns
            if column.mean_of
        }


class ConfiguredMetric(Metric):
    """A metric whose networks, if it needs any, are those that the config names."""

    weights: tuple[str, ...] = ()
    """Names in the config of the networks that decide its numbers."""
    also_needs: tuple[str, ...] = ()
    """Of those that do not, but without which there are none."""

    def absent(self) -> str | None:
        """Absent without a network that it needs."""
        return missing_network(self.networks, *self.weights, *self.also_needs)

    @cached_property  # gigabytes are digested for it
    def variant(self) -> str:
        """Its mode, `@` and the digest of its weights."""
        digest = short_digest(self.networks, *self.weights) if self.weights else None
        return f"{self.mode}@{digest}" if digest else self.mode


_METRICS: dict[str, MetricType] = {}


def register(name: str) -> Callable[[MetricType], MetricType]:
    """Make a metric known under `name`."""

    def add(metric: MetricType) -> MetricType:
        assert name not in _METRICS, name
        _METRICS[name] = metric
        return metric

    return add


def get(spec: str, networks: NetworksConfig) -> Metric:
    """The metric that a suite names, such as `fid/clean`; ValueError says which there are."""
    name, _, mode = spec.partition("/")
    if name not in _METRICS:
        raise ValueError(f"metric {name!r} is unknown: {_hint(name, _METRICS)}")
    metric = _METRICS[name]
    if mode == "" or mode in metric.modes:
        return metric(mode or metric.modes[0], networks)
    if metric.modes == ("",):
        raise ValueError(f"metric {spec!r} is unknown: {name} has no modes")
    raise ValueError(f"metric {spec!r} is unknown: {_hint(mode, metric.modes)}")


def column_key(metric: Metric, column: Column) -> str:
    """A column as curves and results name it, such as `ocr_f1/ppocrv6-small@509be0a9`."""
    name = metric.name
    if not name.endswith(f"_{column.name}") and name != column.name:
        name = f"{name}_{column.name}"
    return f"{name}/{metric.variant}"


def _hint(given: str, known: Any) -> str:
    close = get_close_matches(given, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(sorted(known))}"
