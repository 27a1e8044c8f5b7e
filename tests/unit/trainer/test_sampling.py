"""The chain of sampling steps: diffusers' pictures, and the gradient of just its last steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import load_tiny
from trainer.models.family import Conditioning, Family
from trainer.models.samplers import new_sampler
from trainer.objectives.noising import schedule_of
from trainer.objectives.reward_config import RewardConfig
from trainer.objectives.sampling import Chain, Cut, cut_at

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers, of NumPy 2
SIDE = 8
CAPTIONS = ["'a' in red", "'bc'"]


def settings(**changes: Any) -> RewardConfig:
    keys: dict[str, Any] = {"sampler_steps": 4, "grad_steps": 2, "guidance": 3.0}
    return RewardConfig(rewards={"ocr": 1.0}, **keys | changes)


def chain_of(family: Family, **changes: Any) -> Chain:
    return Chain(family, str(family.scheduler.config.prediction_type), settings(**changes))


def noise_of(family: Family, seed: int = 0) -> Tensor:
    channels = family.vae.config.latent_channels
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(CAPTIONS), channels, SIDE, SIDE, generator=generator)


def sizes_of(family: Family) -> Tensor:
    side = SIDE * family.latent_scale
    return torch.tensor([[side, side, 0, 0, side, side]] * len(CAPTIONS))


@torch.no_grad()
def told(family: Family) -> Conditioning:
    return family.encode_tokens(family.tokenize([*CAPTIONS, ""]))


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmsolver++"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_it_draws_what_diffusers_draws(
    name: str, guidance: float, sampler: str, model_of: Callable[[str], Path]
) -> None:
    family = load_tiny(model_of(name))
    chain = chain_of(family, sampler=sampler, guidance=guidance)
    pipeline: Any = family.pipeline(new_sampler(family.scheduler.config, chain.prediction, sampler))
    noise, side = noise_of(family), SIDE * family.latent_scale
    expected = pipeline(
        CAPTIONS,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=noise.clone(),
        height=side,
        width=side,
        output_type="latent",
    ).images
    found = chain(noise, told(family), told(family), sizes_of(family), Cut(4, 4))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def by_hand(
    family: Family, noise: Tensor, early: Conditioning, late: Conditioning, start: int
) -> Tensor:
    """DDIM (Song et al. 2021) over noise predictions, detached before step `start`."""
    sampler = new_sampler(family.scheduler.config, "epsilon", "ddim")
    sampler.set_timesteps(4)
    alphas, first = family.scheduler.alphas_cumprod, sampler.final_alpha_cumprod
    latents = noise
    for number, time in enumerate(sampler.timesteps):
        context = (late if number >= start else early).context
        before = latents.detach() if number <= start else latents
        unconditional, conditional = (
            family.denoise(before, time, Conditioning(context[rows]), torch.empty(0))
            for rows in ([2, 2], [0, 1])
        )
        answer = unconditional + 3.0 * (conditional - unconditional)
        previous = time - 1000 // 4
        after = alphas[previous] if previous >= 0 else first
        clean = (before - (1 - alphas[time]).sqrt() * answer) / alphas[time].sqrt()
        latents = after.sqrt() * clean + (1 - after).sqrt() * answer
    return latents


@pytest.mark.parametrize("grad_steps", [1, 2, 4])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_gradient_is_that_of_the_last_steps_of_a_chain_written_by_hand(
    checkpoint: bool, grad_steps: int, model_of: Callable[[str], Path]
) -> None:
    family = load_tiny(model_of("sd1"))
    learnt = [family.denoiser.conv_in.weight, family.denoiser.up_blocks[1].resnets[0].conv1.weight]
    for weight in learnt:
        weight.requires_grad_(True)
    early = told(family)
    late = Conditioning((early.context + 0.1).requires_grad_())
    chain = chain_of(family, grad_steps=grad_steps, checkpoint=checkpoint)
    noise, start = noise_of(family), 4 - grad_steps

    found = chain(noise, early, late, sizes_of(family), Cut(start, 4))
    expected = by_hand(family, noise, early, late, start)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    inputs = [*learnt, late.context]
    ours = torch.autograd.grad(found.square().sum(), inputs)
    theirs = torch.autograd.grad(expected.square().sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert float(other.abs().sum()) > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmsolver++"])
def test_a_chain_that_predicts_ends_with_the_picture_that_the_answer_implies(
    sampler: str, model_of: Callable[[str], Path]
) -> None:
    family = load_tiny(model_of("sd2"))
    chain = chain_of(family, sampler=sampler, guidance=1.0, grad_steps=1, predict_at=(1, 4))
    noise, conditioning = noise_of(family), told(family)
    steps = new_sampler(family.scheduler.config, "v_prediction", sampler)
    steps.set_timesteps(4)
    time = steps.timesteps[:1]
    shown = steps.scale_model_input(noise * steps.init_noise_sigma, time[0])
    answer = family.denoise(shown, time, Conditioning(conditioning.context[:2]), torch.empty(0))
    schedule = schedule_of(family.scheduler, "v_prediction", torch.device("cpu"))
    expected = schedule.clean("v_prediction", shown, answer, time.long().expand(2))
    found = chain(noise, conditioning, conditioning, sizes_of(family), Cut(0, 1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_cut_is_fixed_or_drawn_for_each_step() -> None:
    assert {cut_at(settings(), seed=0, step=step) for step in range(20)} == {Cut(2, 4)}
    align_prop = settings(grad_steps=4, least_grad_steps=1)
    cuts = [cut_at(align_prop, seed=0, step=step) for step in range(200)]
    assert {cut.end - cut.start for cut in cuts} == {1, 2, 3, 4}
    assert cuts == [cut_at(align_prop, seed=0, step=step) for step in range(200)]
    assert cuts != [cut_at(align_prop, seed=1, step=step) for step in range(200)]
    refl = settings(grad_steps=1, predict_at=(2, 4))
    assert {cut_at(refl, seed=0, step=step) for step in range(200)} == {
        Cut(end - 1, end) for end in (2, 3, 4)
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grad_steps": 5}, "grad_steps must be 1 to 4, got 5"),
        ({"least_grad_steps": 3}, "least_grad_steps must be 1 to 2, got 3"),
        ({"predict_at": (3, 5)}, r"predict_at must be two of the steps 1 to 4, got \[3, 5\]"),
        ({"predict_at": (1, 4)}, "grad_steps must be 1 to 1, got 2"),
        ({"guidance": 0.5}, "guidance must be at least 1"),
        ({"watched": ("ocr",)}, "ocr is in rewards and in watched"),
        ({"enough": {"clip": 30.0}}, "enough.clip is of no reward that is climbed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
