"""What the mini model's autoencoder learns: from pictures to latents, and back."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

KL_WEIGHT = 1e-6  # as Rombach et al. 2022: the latents stay near a unit normal, no more


def autoencoder_loss(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """L1 + L2 between pictures (RGB in [-1, 1]) and what comes back, and a little KL."""
    posterior = vae.encode(pixels).latent_dist
    difference = vae.decode(posterior.sample()).sample - pixels
    reconstruction = difference.abs().mean() + difference.square().mean()
    loss: Tensor = reconstruction + KL_WEIGHT * posterior.kl().mean()
    return loss


@torch.no_grad()
def psnr_db(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal-to-noise ratio of the round trip of uint8 pictures, mean over them, in dB."""
    pixels = images.float() / 127.5 - 1
    back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    errors = ((back - pixels) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())
