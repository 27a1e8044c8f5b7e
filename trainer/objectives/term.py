"""What a term of the loss is: what it is shown of a forward pass, and what it says of it.

A term that a recipe may add is one file beside this one, a settings class and a key in config.py,
and a line in terms.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from trainer.data.loader import Batch
from trainer.models.family import Family
from trainer.objectives.config import TermConfig
from trainer.objectives.noising import Schedule


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """One forward pass of the denoiser, in fp32 whatever its dtype."""

    schedule: Schedule
    prediction: str
    """What `predicted` is: epsilon, v_prediction or flow_prediction."""
    latents: Tensor
    """Of the pictures, scaled as the denoiser sees them: batch channels h w."""
    noise: Tensor
    """What was mixed in, of the same shape."""
    timesteps: Tensor
    """int64, batch."""
    noised: Tensor
    """What the denoiser was shown, before it was rounded to its dtype."""
    predicted: Tensor
    """What it answered; gradients pass."""

    @property
    def clean(self) -> Tensor:
        """The latents as the answer has them, x_0; gradients pass."""
        return self.schedule.clean(self.prediction, self.noised, self.predicted, self.timesteps)

    @property
    def errors(self) -> Tensor:
        """The squared error of each element."""
        wanted = self.schedule.target(self.prediction, self.latents, self.noise, self.timesteps)
        return (self.predicted - wanted).square()

    def take(self, rows: Sequence[int]) -> "Denoised":
        """These samples of it."""
        tensors = ("latents", "noise", "timesteps", "noised", "predicted")
        return replace(self, **{name: getattr(self, name)[list(rows)] for name in tensors})


class Said(NamedTuple):
    """What a term says of a batch."""

    losses: Tensor
    """fp32, batch; 0 for a sample of which it can say nothing."""
    counts: Mapping[str, int] = {}
    """What it had to leave out, by why."""


class Term(ABC):
    """A part of the loss. Its networks are frozen, and no rank waits for another in it."""

    def __init__(self, family: Family, config: TermConfig) -> None:
        """Load what the term needs; ValueError if it is missing."""
        self.family = family
        self.config = config

    @abstractmethod
    def __call__(self, denoised: Denoised, batch: Batch) -> Said:
        """What it says of each sample: both arguments hold the same ones."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a forward pass has cost."""

    total: Tensor
    """What is minimised."""
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    """For the curves: `loss_<term>` before its weight in the sum, `gradient_share_<term>`."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What terms had to leave out, by `<term>_<why>`."""
