"""The rows of a ledger: what it says of weights, pictures, scores and workers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """A process that made or scored pictures."""

    worker: str
    device: str
    versions: str
    """JSON: package -> version."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A set of weights that is scored."""

    checkpoint: str
    kind: str
    step: int | None
    name: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was made, or why it was not."""

    checkpoint: str
    prompt: int
    sample: int
    status: str
    file: str | None = None
    sha256: str | None = None
    note: str | None = None
    error: str | None = None
    worker: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a metric says of a picture, or why it says nothing."""

    checkpoint: str
    prompt: int
    sample: int
    metric: str
    status: str
    numbers: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None
    error: str | None = None
    worker: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a metric says of the pictures of a checkpoint that it could score, as columns."""

    prompts: NDArray[np.int64]
    """Number of each picture's prompt."""
    samples: NDArray[np.int64]
    """Its number among the pictures of the prompt."""
    numbers: dict[str, NDArray[np.float64]]
    features: NDArray[np.float32] | None = None
    """pictures dim"""
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, indices: NDArray[Any]) -> "Rows":
        """These of the rows, by place or by mask; a place may be named twice."""
        return Rows(
            prompts=self.prompts[indices],
            samples=self.samples[indices],
            numbers={name: values[indices] for name, values in self.numbers.items()},
            features=None if self.features is None else self.features[indices],
        )

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` made the first time it was asked for of these rows under this name."""
        if name not in self._made:
            self._made[name] = make()
        made: Made = self._made[name]
        return made


NO_ROWS = Rows(prompts=np.zeros(0, np.int64), samples=np.zeros(0, np.int64), numbers={})
