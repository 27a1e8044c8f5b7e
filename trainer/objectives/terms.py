"""The terms that a recipe may add to the loss, and how they add up."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.data.loader import Batch
from trainer.models.family import Family
from trainer.objectives.character_loss import CharacterLoss
from trainer.objectives.config import ObjectiveConfig, TermConfig
from trainer.objectives.ocr_loss import OcrLoss
from trainer.objectives.term import Denoised, Said, Term

TERMS: dict[str, Callable[[Family, Any], Term]] = {"characters": CharacterLoss, "ocr": OcrLoss}
"""By the key in `ObjectiveConfig`."""


def open_terms(family: Family, config: ObjectiveConfig) -> dict[str, Term]:
    """The terms that a recipe adds to the denoising loss."""
    asked = {name: getattr(config, name) for name in TERMS}
    last = int(family.scheduler.config.num_train_timesteps) - 1
    for name, term in {"denoising": config.denoising, **asked}.items():
        if term and term.timesteps and term.timesteps[1] > last:
            raise ValueError(
                f"train.objective.{name}.timesteps {list(term.timesteps)} goes beyond the model's: "
                f"it has 0 to {last}"
            )
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
