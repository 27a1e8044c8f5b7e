"""The objective against cases worked out by hand, and against diffusers' own formulas."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from tests.conftest import load_tiny, train_config
from trainer.data.loader import Batch
from trainer.models.trained import Trained
from trainer.objectives.config import ObjectiveConfig
from trainer.objectives.denoising import Denoising
from trainer.objectives.noising import Schedule, min_snr_weight, offset_noise, schedule_of

CPU = torch.device("cpu")
NOW = torch.tensor([0])


def test_worked_cases() -> None:
    latents, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 10.0)
    schedule = Schedule(torch.tensor([0.8]), torch.tensor([0.6]), NOW)  # a = 0.64
    assert schedule.add_noise(latents, noise, NOW).item() == pytest.approx(0.8 * 2 + 0.6 * 10)
    wanted = {
        name: schedule.target(name, latents, noise, NOW).item()
        for name in ("epsilon", "v_prediction", "flow_prediction")
    }
    expected = {"epsilon": 10, "v_prediction": 0.8 * 10 - 0.6 * 2, "flow_prediction": 10 - 2}
    assert wanted == pytest.approx(expected)
    assert schedule.snr(NOW).item() == pytest.approx(0.64 / 0.36)


def test_noise_and_velocity_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    schedule = schedule_of(scheduler, "v_prediction", CPU)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 8, 4, 4, 12, generator=generator)
    timesteps = torch.randint(1000, (8,), generator=generator)
    torch.testing.assert_close(
        schedule.add_noise(latents, noise, timesteps),
        scheduler.add_noise(latents, noise, timesteps),
    )
    torch.testing.assert_close(
        schedule.target("v_prediction", latents, noise, timesteps),
        scheduler.get_velocity(latents, noise, timesteps),
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
def test_min_snr_weighs_the_error_of_the_picture_alike_for_every_prediction(
    prediction: str,
) -> None:
    # An error d in the answer is an error in x_0 of: noise/signal d, noise d, or noise d.
    straight = prediction == "flow_prediction"
    noise = torch.tensor([0.1, 0.5, 0.9])
    signal = 1 - noise if straight else (1 - noise.square()).sqrt()
    snr = (signal / noise).square()
    picture_error = (noise / signal if prediction == "epsilon" else noise).square()
    torch.testing.assert_close(
        min_snr_weight(snr, 5.0, prediction), snr.clamp(max=5.0) * picture_error
    )


def test_offset_noise_shifts_each_channel_as_a_whole() -> None:
    noise, offset = torch.zeros(2, 3, 4, 5), torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    shifted = offset_noise(noise, offset, 0.1)
    torch.testing.assert_close(shifted, 0.1 * offset[:, :, None, None].expand(2, 3, 4, 5))
    assert offset_noise(noise, offset, 0.0) is noise


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 1, 32, 96)
    masks[:, :, :, :48] = 1  # the left half
    return Batch(
        positions=[0, 1],
        images=torch.randint(256, (2, 3, 32, 96), generator=generator, dtype=torch.uint8),
        masks=masks,
        sizes=torch.tensor([[32, 96, 0, 0, 32, 96]] * 2),
        captions=["'a'", "'b'"],
        broken=[],
    )


def test_the_mask_moves_weight_to_the_text_and_leaves_the_sum(
    tiny_model: Path, batch: Batch
) -> None:
    config = train_config(tiny_model, objective=ObjectiveConfig(mask_weight=3.0))
    objective = Denoising(load_tiny(tiny_model), config)
    left, right = torch.zeros(2, 2, 4, 4, 12)
    left[..., :6], right[..., 6:] = 1, 1
    timesteps = torch.tensor([10, 500])
    # 3 : 1 with a mean of 1: 1.5 on the left and 0.5 on the right, each half of the picture.
    assert objective.weigh(left, timesteps, batch).mean().item() == pytest.approx(0.75)
    assert objective.weigh(right, timesteps, batch).mean().item() == pytest.approx(0.25)
    assert objective.weigh(left + right, timesteps, batch).mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
def test_every_prediction_learns_a_picture_by_heart(
    tiny_model: Path, batch: Batch, prediction: str
) -> None:
    config = train_config(tiny_model, objective=ObjectiveConfig(prediction=prediction))
    family = load_tiny(tiny_model)
    objective, trained = Denoising(family, config), Trained(family, config)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = objective(trained, batch, step=0).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_captions_whose_end_is_not_read_are_told(tiny_model: Path, batch: Batch) -> None:
    objective = Denoising(load_tiny(tiny_model), train_config(tiny_model))
    fits, too_long = "a" * 38, "a" * 39  # and a token for each end: 40 are read
    found = objective.long_captions(replace(batch, captions=[fits, too_long]))
    assert found == ([too_long], 40)
