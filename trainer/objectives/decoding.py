"""Pictures of latents, with gradients, in the memory that one of them takes.

Whole pictures, not what surrounds the lines: the decoder's group norms, and the attention in Stable
Diffusion's, look at all of a picture. benchmarks/neighbourhood.py measures what a cut changes: the
mini model's decoder, with 2 latents left around, is off by 0.075 of the range (root mean square),
as much as it errs anyway, and the gradient by a third.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.models.family import Family

# Decoded in one piece, and again in the backward pass: one picture of Stable Diffusion 1.
PIXELS_AT_ONCE = 512 * 512


def decode(family: Family, latents: Tensor) -> Tensor:
    """Scaled latents (batch channels h w) as RGB, fp32, about 0 to 1: batch 3 height width.

    Nothing of a piece is kept for the backward pass but its latents: it is decoded again there.
    """
    pixels = latents[0, 0].numel() * family.latent_scale**2
    parts = latents.split(max(1, PIXELS_AT_ONCE // pixels))
    return torch.cat([_decoded_again(family, part) for part in parts])


def _decoded_again(family: Family, latents: Tensor) -> Tensor:
    decoded: Tensor = checkpoint(
        family.decode_latents,
        latents,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is drawn, and reading it waits for the device
    )
    return decoded
