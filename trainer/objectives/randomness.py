"""All chance in a run, as a function of its seed and of each sample's place in the stream.

So a sample meets the same noise on any number of GPUs, and a resumed run meets what the
uninterrupted one would have met. Drawn on the CPU, whose generator is the same on every machine.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The chance that one batch meets."""

    noise: Tensor
    """Standard normal, batch channels height width: what is added to the latents."""
    posterior: Tensor
    """Standard normal, the same shape: which latent of the autoencoder's posterior is taken."""
    timesteps: Tensor
    """int64, batch: 0 to num_timesteps - 1."""
    drop_caption: list[bool]
    """Whether the sample is trained on without its caption."""
    offset: Tensor
    """Standard normal, batch channels: a shift of each channel's noise."""


def draw(
    positions: Sequence[int],
    *,
    seed: int,
    latent_shape: tuple[int, int, int],
    num_timesteps: int,
    caption_dropout: float,
) -> Draws:
    """The draws of the samples at `positions` of the run's stream."""
    noise = torch.empty(len(positions), *latent_shape)
    posterior = torch.empty_like(noise)
    timesteps = torch.empty(len(positions), dtype=torch.int64)
    offset = torch.empty(len(positions), latent_shape[0])
    drop_caption = []
    for row, position in enumerate(positions):
        generator = torch.Generator().manual_seed(seed_of(seed, position))
        noise[row] = torch.randn(latent_shape, generator=generator)
        posterior[row] = torch.randn(latent_shape, generator=generator)
        timesteps[row] = torch.randint(num_timesteps, (), generator=generator)
        drop_caption.append(torch.rand((), generator=generator).item() < caption_dropout)
        offset[row] = torch.randn(latent_shape[0], generator=generator)
    return Draws(
        noise=noise,
        posterior=posterior,
        timesteps=timesteps,
        drop_caption=drop_caption,
        offset=offset,
    )


def first_noise(
    positions: Sequence[int], *, seed: int, latent_shape: tuple[int, int, int]
) -> Tensor:
    """What pictures at `positions` are drawn from: standard normal, batch channels height width."""
    noise = torch.empty(len(positions), *latent_shape)
    for row, position in enumerate(positions):
        generator = torch.Generator().manual_seed(seed_of(seed, position))
        noise[row] = torch.randn(latent_shape, generator=generator)
    return noise


def seed_of(*parts: int | str) -> int:
    """A seed for each combination; hashed, since like seeds must not give like noise."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # torch takes 63 bits
