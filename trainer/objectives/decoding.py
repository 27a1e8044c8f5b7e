"""Pictures of latents, with gradients, in the memory that a few of them take.

Whole pictures, not what surrounds the lines: group norms, and in Stable Diffusion's decoder an
attention, look at all of a picture.
"""

import torch
from torch import Tensor

from trainer.models.family import Family

# So many are decoded in one piece, and computed again in one piece in the backward pass: a picture of
# Stable Diffusion 1 keeps a GPU busy.
PIXELS_AT_ONCE = 512 * 512


def keep_little(family: Family) -> None:
    """Have each block of the autoencoder computed again in the backward pass; without one nothing
    changes."""
    family.vae.enable_gradient_checkpointing()


def decode(family: Family, latents: Tensor) -> Tensor:
    """Scaled latents (batch channels h w) as RGB, fp32, about 0 to 1: batch 3 height width."""
    pixels = latents[0, 0].numel() * family.latent_scale**2
    parts = latents.split(max(1, PIXELS_AT_ONCE // pixels))
    return torch.cat([family.decode_latents(part) for part in parts])
