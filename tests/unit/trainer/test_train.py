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
from trainer.objectives.term import Loss
from trainer.train import _loss

MASKED = ObjectiveConfig(mask_weight=2.0)


def test_a_number_that_is_only_watched_and_broken_is_left_out_too() -> None:
    zero, skipped = torch.zeros(()), []
    watched = Loss(total=zero, scalars={"reward_clip": torch.tensor(torch.nan)})
    nothing = Loss(total=zero, scalars={"reward_clip": zero})
    job: Any = SimpleNamespace(
        config=SimpleNamespace(on_broken_loss="skip"),
        objective=Answers(watched, nothing),
        world=SimpleNamespace(any=lambda flag: flag),
        journal=SimpleNamespace(count_skipped=skipped.append),
        samples=SimpleNamespace(names=lambda positions: ["sample 7"]),
    )
    learner: Any = SimpleNamespace(engine=None, step=0)
    batch: Any = SimpleNamespace(positions=[7])
    assert _loss(job, learner, batch) is nothing
    assert skipped == [["sample 7"]]


class Answers:
    """An objective that says the same of everything."""

    def __init__(self, answer: Loss, nothing: Loss) -> None:
        self.answer, self._nothing = answer, nothing

    def __call__(self, *_: Any) -> Loss:
        return self.answer

    def nothing(self, *_: Any) -> Loss:
        return self._nothing


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
