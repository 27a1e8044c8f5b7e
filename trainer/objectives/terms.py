"""What is added up to a loss: terms, each with a weight and a schedule of its own.

A term that a recipe may add is one file beside this one, a settings class and a key in config.py,
and a line in TERMS.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.data.loader import Batch
from trainer.models.family import Family
from trainer.objectives.config import ObjectiveConfig, TermConfig
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


def _ocr_loss(family: Family, config: Any) -> Term:
    from trainer.objectives.ocr_loss import OcrLoss  # which imports this module

    return OcrLoss(family, config)


TERMS: dict[str, Callable[[Family, Any], Term]] = {"ocr": _ocr_loss}
"""By the key in `ObjectiveConfig`."""


def open_terms(family: Family, config: ObjectiveConfig) -> dict[str, Term]:
    """The terms that a recipe adds to the denoising loss."""
    asked = {name: getattr(config, name) for name in TERMS}
    return {name: TERMS[name](family, found) for name, found in asked.items() if found}


def sample_weights(config: TermConfig, denoised: Denoised) -> Tensor:
    """What a term's noise levels make each sample count (batch), 0 to 1."""
    timesteps = denoised.timesteps
    weights = torch.ones_like(timesteps, dtype=torch.float32)
    if config.timesteps:
        first, last = config.timesteps
        weights = weights * ((timesteps >= first) & (timesteps <= last))
    if config.weigh_by_signal:
        weights = weights * denoised.schedule.signal[timesteps].square()
    return weights


def said_by(term: Term, denoised: Denoised, batch: Batch) -> Said:
    """A term's losses, weighed by noise level; it is only asked of samples that count."""
    weights = sample_weights(term.config, denoised)
    rows = torch.nonzero(weights).flatten().tolist()
    losses = torch.zeros_like(weights)
    if not rows:
        return Said(losses)
    some = len(rows) < len(weights)
    said = term(denoised.take(rows), batch.take(rows)) if some else term(denoised, batch)
    picked = torch.tensor(rows, device=losses.device)
    return Said(losses.index_add(0, picked, said.losses.float()) * weights, said.counts)


def gradient_shares(parts: Mapping[str, Tensor], predicted: Tensor) -> dict[str, Tensor]:
    """Each part's share in the sum of their gradients' norms at the denoiser's answer, 0 to 1."""
    norms = {}
    for name, part in parts.items():
        if part.requires_grad:
            (gradient,) = torch.autograd.grad(part, predicted, retain_graph=True)
            norms[name] = gradient.norm()
        else:  # it said nothing of any sample
            norms[name] = torch.zeros_like(part)
    total = torch.stack(list(norms.values())).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return {name: norm / total for name, norm in norms.items()}
