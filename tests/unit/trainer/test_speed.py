"""What trades memory for time reaches the networks, whichever way a run learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import load_tiny, train_config
from trainer.config import SpeedConfig
from trainer.data.loader import Batch
from trainer.learner import make_fast
from trainer.models.config import NetworksConfig
from trainer.models.trained import Trained
from trainer.objectives.denoising import Denoising
from trainer.objectives.objective import Objective
from trainer.objectives.reward_config import RewardConfig
from trainer.objectives.reward_tuning import RewardTuning

SIZES = torch.tensor([[32, 96, 0, 0, 32, 96]])


def objective_of(name: str, model: Path, speed: SpeedConfig) -> tuple[Objective, Trained]:
    """The objective and what it trains, its networks made as fast as a run makes them."""
    keys: dict[str, Any] = {"speed": speed}
    if name == "reward":
        keys["reward"] = RewardConfig(
            rewards={"clip": 1.0},
            sampler_steps=3,
            grad_steps=2,
            height=32,
            width=96,
            networks=NetworksConfig(clip=str(model / "clip")),
        )
    config, family = train_config(model, **keys), load_tiny(model)
    objective: Objective = (
        RewardTuning(family, config) if name == "reward" else Denoising(family, config)
    )
    trained = Trained(family, config)
    make_fast(family, speed)
    return objective, trained


def learnt(name: str, model: Path, speed: SpeedConfig) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What the denoiser's convolutions are asked in a pass, and the gradients that it leaves."""
    objective, trained = objective_of(name, model, speed)
    seen: list[Tensor] = []
    for part in objective.family.denoiser.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    images = torch.randint(256, (1, 3, 32, 96), generator=torch.Generator().manual_seed(0))
    batch = Batch(
        positions=[0],
        images=None if name == "reward" else images.to(torch.uint8),
        masks=None,
        sizes=SIZES,
        captions=["'moon' in red"],
        broken=[],
    )
    objective(trained, batch, step=0).total.backward()
    return seen, {n: w.grad for n, w in trained.named_parameters() if w.grad is not None}


def in_channels_last(pictures: Tensor) -> bool:
    """Whether they lie so in memory, and in no other layout."""
    return (
        pictures.is_contiguous(memory_format=torch.channels_last) and not pictures.is_contiguous()
    )


@pytest.mark.parametrize("name", ["denoising", "reward"])
def test_channels_last_reaches_every_convolution_and_changes_nothing(
    name: str, tiny_model: Path
) -> None:
    plain, expected = learnt(name, tiny_model, SpeedConfig())
    seen, gradients = learnt(name, tiny_model, SpeedConfig(channels_last=True))
    assert len(seen) == len(plain) > 0
    assert all(in_channels_last(pictures) for pictures in seen)
    assert not any(in_channels_last(pictures) for pictures in plain)
    most = max(float(gradient.abs().max()) for gradient in expected.values())
    for weight, gradient in expected.items():
        torch.testing.assert_close(gradients[weight], gradient, rtol=1e-3, atol=1e-4 * most)
