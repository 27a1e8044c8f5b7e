"""The objective against cases worked out by hand, and against diffusers' own formulas."""

import pytest
import torch
from diffusers import DDPMScheduler

from trainer.objectives.denoising import add_noise, mean_squared_error, target


def test_a_worked_case() -> None:
    latents, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 10.0)
    a = torch.tensor([0.64])
    # sqrt(a) = 0.8, sqrt(1 - a) = 0.6
    assert add_noise(latents, noise, a).item() == pytest.approx(0.8 * 2 + 0.6 * 10)
    assert target("epsilon", latents, noise, a).item() == 10
    assert target("v_prediction", latents, noise, a).item() == pytest.approx(0.8 * 10 - 0.6 * 2)


def test_noise_and_velocity_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 8, 4, 4, 12, generator=generator)
    timesteps = torch.randint(1000, (8,), generator=generator)
    a = scheduler.alphas_cumprod[timesteps]
    torch.testing.assert_close(
        add_noise(latents, noise, a), scheduler.add_noise(latents, noise, timesteps)
    )
    torch.testing.assert_close(
        target("v_prediction", latents, noise, a), scheduler.get_velocity(latents, noise, timesteps)
    )


def test_the_loss_of_a_bf16_network_is_computed_in_fp32() -> None:
    predicted = torch.full((1000,), 1.0, dtype=torch.bfloat16)
    wanted = torch.full((1000,), 1.001)
    assert mean_squared_error(predicted, wanted).item() == pytest.approx(1e-6, rel=1e-3)
