"""The loss on a fixed grid of samples, noise and timesteps: the same at every step and every run.

All ranks share the work, and each makes as many forward passes as any other, since at ZeRO stage 3
every pass gathers the weights from all of them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.loader import Batch
from trainer.data.samples import Samples
from trainer.distributed import World
from trainer.objectives.denoising import Denoising
from trainer.objectives.objective import Objective
from trainer.objectives.randomness import seed_of


class Losses(NamedTuple):
    """What a validation found."""

    mean: float
    """Over the whole grid."""
    bands: dict[int, float]
    """The mean of each timestep."""


class Validation:
    """A grid of samples times timesteps, each with a noise of its own."""

    def __init__(
        self, batches: list[Batch], timesteps: int, objective: Denoising, world: World
    ) -> None:
        self._objective = objective
        self._world = world
        self._batches = batches
        steps = objective.num_timesteps
        # The middles of equal bands, as validation in MLPerf's text-to-image benchmark has them.
        self.timesteps = [round((band + 0.5) * steps / timesteps) for band in range(timesteps)]

    @torch.no_grad()
    def measure(self, engine: Any) -> Losses:
        """The unweighted loss of the weights as they are. Every rank must call it."""
        world = self._world
        sums = torch.zeros(2, len(self.timesteps), dtype=torch.float64)
        engine.module.eval()
        for turn, (batch, band) in enumerate(self._rounds()):
            losses = self._losses(engine.module, batch, self.timesteps[band])
            if turn * world.ranks + world.rank < len(self._batches) * len(self.timesteps):
                sums[0, band] += losses.double().sum().cpu()
                sums[1, band] += len(losses)
        engine.module.train()
        dist.all_reduce(sums, group=world.control)
        bands = (sums[0] / sums[1]).tolist()
        mean = float(sums[0].sum() / sums[1].sum())
        return Losses(mean, dict(zip(self.timesteps, bands, strict=True)))

    def _rounds(self) -> Iterator[tuple[Batch, int]]:
        """This rank's turns; where there are none left, one is made again and not counted."""
        cells = [(b, band) for band in range(len(self.timesteps)) for b in self._batches]
        for first in range(0, len(cells), self._world.ranks):
            yield cells[(first + self._world.rank) % len(cells)]

    def _losses(self, trained: Any, batch: Batch, timestep: int) -> Tensor:
        objective = self._objective
        shape = objective.latent_shape(batch)
        noise, posterior = torch.empty(2, len(batch.positions), *shape)
        for row, position in enumerate(batch.positions):
            seed = seed_of("validation", position, timestep)
            generator = torch.Generator().manual_seed(seed)
            noise[row] = torch.randn(shape, generator=generator)
            posterior[row] = torch.randn(shape, generator=generator)
        timesteps = torch.full((len(batch.positions),), timestep)
        latents = objective.latents(batch, posterior)
        captions = objective.captions(batch.captions)
        denoised = objective.denoise(trained, latents, noise, timesteps, captions, batch)
        return denoised.errors.mean(dim=(1, 2, 3))


def open_validation(
    samples: Samples, config: TrainConfig, objective: Objective, world: World
) -> Validation | None:
    """The recipe's validation, if it has one; ValueError if no sample of it can be read."""
    if config.validation is None:
        return None
    assert isinstance(objective, Denoising), "the config refuses a validation of anything else"
    batches = samples.validation_batches(config.micro_batch)
    if not batches:
        raise ValueError(
            f"none of the samples to validate on can be read: {samples.validation.folder}"
        )
    return Validation(batches, config.validation.timesteps, objective, world)
