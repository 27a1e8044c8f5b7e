"""Pictures drawn from noise so that a gradient passes back through the sampler's last steps."""

import random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.models.family import Conditioning, Family
from trainer.models.samplers import new_sampler
from trainer.objectives.randomness import seed_of
from trainer.objectives.reward_config import RewardConfig


class Cut(NamedTuple):
    """Which steps of a sampler are taken, and through which of them the gradient passes."""

    start: int
    """The first one that it passes through, from 0."""
    end: int
    """How many are taken."""


def cut_at(config: RewardConfig, *, seed: int, step: int) -> Cut:
    """The cut of an optimizer step: the same on all ranks, for at ZeRO stage 3 all must ask the
    networks as often.
    """
    chance = random.Random(seed_of(seed, "cut", step))
    # Always two draws: switching one key on leaves what the other chose.
    end, learnt = chance.random(), chance.random()
    first, last = config.predict_at or (config.sampler_steps, config.sampler_steps)
    least = config.least_grad_steps or config.grad_steps
    steps = first + int(end * (last - first + 1))
    return Cut(steps - least - int(learnt * (config.grad_steps - least + 1)), steps)


class Chain:
    """A sampler's steps as a function of noise and captions."""

    def __init__(self, family: Family, prediction: str, config: RewardConfig) -> None:
        self.family = family
        self.prediction = prediction
        self.config = config

    def __call__(
        self, noise: Tensor, early: Conditioning, late: Conditioning, sizes: Tensor, cut: Cut
    ) -> Tensor:
        """The latents of pictures, fp32, of the shape of `noise`: batch channels h w.

        Captions have a row each, and one more for the empty caption: `early` for the steps before
        the cut, `late` for those that the gradient passes through.
        """
        config = self.config
        sampler = new_sampler(self.family.scheduler.config, self.prediction, config.sampler)
        sampler.set_timesteps(config.sampler_steps, device=noise.device)
        early, late, sizes = self._guided(early), self._guided(late), self._doubled(sizes)
        latents, stepped = noise * sampler.init_noise_sigma, None
        for number, time in enumerate(sampler.timesteps[: cut.end]):
            learns = number >= cut.start
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                shown = sampler.scale_model_input(latents, time)
                answer = self._answer(shown, time, late if learns else early, sizes)
                stepped = sampler.step(answer, time, latents)
            latents = stepped.prev_sample
        return latents if config.predict_at is None else _predicted(sampler, stepped)

    def _answer(self, shown: Tensor, time: Tensor, told: Conditioning, sizes: Tensor) -> Tensor:
        """What the denoiser answers to latents under guidance, fp32."""
        if self.config.checkpoint and torch.is_grad_enabled():
            again: Tensor = checkpoint(self._ask, shown, time, told, sizes, use_reentrant=False)
            return again
        return self._ask(shown, time, told, sizes)

    def _ask(self, shown: Tensor, time: Tensor, told: Conditioning, sizes: Tensor) -> Tensor:
        noised = self._doubled(shown).to(told.context.dtype)
        answer = self.family.denoise(noised, time.expand(len(noised)), told, sizes).float()
        if not self._is_guided:
            return answer
        unconditional, conditional = answer.chunk(2)
        return unconditional + self.config.guidance * (conditional - unconditional)

    @property
    def _is_guided(self) -> bool:
        return self.config.guidance > 1

    def _doubled(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows]) if self._is_guided else rows

    def _guided(self, told: Conditioning) -> Conditioning:
        """Rows for the denoiser: the empty caption for each picture, then its own."""

        def of(rows: Tensor) -> Tensor:
            own, empty = rows[:-1], rows[-1:]
            return torch.cat([empty.expand_as(own), own]) if self._is_guided else own

        return Conditioning(of(told.context), of(told.pooled) if told.pooled is not None else None)


def _predicted(sampler: Any, stepped: Any) -> Tensor:
    """The latents x_0 that the last answer implies; DPM-Solver++ keeps them as what it was told."""
    clean = stepped.get("pred_original_sample")
    found: Tensor = sampler.model_outputs[-1] if clean is None else clean
    return found
