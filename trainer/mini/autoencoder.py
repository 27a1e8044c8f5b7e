"""Training the mini model's autoencoder: pictures to latents that the UNet works on, and back."""

from collections.abc import Iterator

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trainer.config import OptimConfig
from trainer.engine import learning_rate

KL_WEIGHT = 1e-6  # as Rombach et al. 2022: the latents stay near a unit normal, no more


def train_autoencoder(
    vae: AutoencoderKL, batches: Iterator[Tensor], optim: OptimConfig, steps: int
) -> Iterator[float]:
    """Train on uint8 RGB batches, yielding the loss of each step."""
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, optim, steps)
        loss = autoencoder_loss(vae, next(batches).float() / 127.5 - 1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


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
