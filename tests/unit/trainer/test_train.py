"""A forward pass whose loss is not finite: left out where the recipe says so, and counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import load_tiny, train_config
from trainer.data.loader import Batch
from trainer.models.trained import Trained
from trainer.objectives.config import ObjectiveConfig
from trainer.objectives.denoising import Denoising
from trainer.train import _loss

MASKED = ObjectiveConfig(mask_weight=2.0)


@pytest.mark.parametrize(("choice", "counted"), [("stop", 0), ("skip", 1)])
def test_a_broken_loss_stops_or_is_left_out_without_a_trace_in_the_weights(
    tiny_model: Path, choice: str, counted: int
) -> None:
    config = train_config(tiny_model, on_broken_loss=choice, objective=MASKED)
    family = load_tiny(tiny_model)
    skipped: list[list[str]] = []
    job: Any = SimpleNamespace(
        config=config,
        objective=Denoising(family, config),
        world=SimpleNamespace(any=lambda flag: flag),
        journal=SimpleNamespace(count_skipped=skipped.append),
        samples=SimpleNamespace(names=lambda positions: [f"sample {p}" for p in positions]),
    )
    learner: Any = SimpleNamespace(engine=Trained(family, config), step=0)
    batch = Batch(
        positions=[7],
        images=torch.zeros(1, 3, 32, 96, dtype=torch.uint8),
        masks=torch.full((1, 1, 32, 96), torch.nan),
        sizes=torch.tensor([[32, 96, 0, 0, 32, 96]]),
        captions=["'a'"],
        broken=[],
    )
    loss = _loss(job, learner, batch).total
    assert len(skipped) == counted
    if choice == "stop":
        assert torch.isnan(loss)
        return
    assert skipped == [["sample 7"]]
    loss.backward()
    gradients = [weight.grad for weight in learner.engine.parameters() if weight.grad is not None]
    assert gradients
    assert all(not gradient.any() for gradient in gradients)
