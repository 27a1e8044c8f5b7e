"""What a metric is, and how one is found by name.

A metric looks at pictures in a scoring actor, and leaves numbers or features of each in the ledger.
Its summary is made from the ledger's rows alone, by whoever reads them: however the pictures were
split over workers, it is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evalfarm.config import EvalConfig
from evalfarm.ledger import Score

MetricType = type["Metric"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number that a metric reports."""

    name: str
    title: str
    """As it heads a table."""
    unit: str
    higher_is_better: bool
    decimals: int = 3


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A picture, and what it should show."""

    image: Image.Image
    """RGB."""
    prompt: str
    words: list[str]
    """The words that should be legible, in lower case."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a metric says of one picture."""

    numbers: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None


class Metric(ABC):
    """A measure of pictures."""

    columns: ClassVar[tuple[Column, ...]]
    """What its summary reports."""
    needs_references: ClassVar[bool] = False
    """Whether real pictures are to be looked at too."""

    @staticmethod
    @abstractmethod
    def absent(config: EvalConfig) -> str | None:
        """Why it cannot be measured with this config, and what would mend it; None if it can."""

    @staticmethod
    @abstractmethod
    def variant(config: EvalConfig) -> str:
        """Which weights and rules: two numbers of one name and variant compare."""

    @abstractmethod
    def __init__(self, config: EvalConfig) -> None:
        """Load what looking takes."""

    @abstractmethod
    def look(self, asked: Sequence[Asked]) -> list[Seen]:
        """What there is to say of each picture."""

    @staticmethod
    @abstractmethod
    def summarize(scores: Sequence[Score], references: Sequence[Score]) -> dict[str, float]:
        """The columns' values from the rows that are ok; what cannot be computed is left out."""


_METRICS: dict[str, MetricType] = {}


def register(name: str) -> Callable[[MetricType], MetricType]:
    """Make a metric known under `name`."""

    def add(metric: MetricType) -> MetricType:
        assert name not in _METRICS, name
        _METRICS[name] = metric
        return metric

    return add


def get(name: str) -> MetricType:
    """The metric of that name; ValueError names those there are."""
    if name in _METRICS:
        return _METRICS[name]
    close = get_close_matches(name, _METRICS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(_METRICS)}"
    raise ValueError(f"metric {name!r} is unknown: {hint}")


def mean(scores: Sequence[Score], number: str) -> float:
    """The mean of one number over rows that all have it."""
    return float(np.mean([score.numbers[number] for score in scores]))
