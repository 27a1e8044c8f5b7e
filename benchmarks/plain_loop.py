"""The peer of the throughput benchmark: a LoRA loop that works as diffusers' example script does.

Like train_text_to_image_lora.py of diffusers, written anew: every batch goes through the
autoencoder and the text encoder, under autocast; AdamW is torch's default; the loss is gathered and
read from the device at every step, for the log and for the progress bar. No compilation, no other
memory format. accelerate itself adds nothing on one GPU, and is left out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from peft import LoraConfig
from torch import Tensor

from trainer.data.loader import Batch
from trainer.models.family import Family

TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


class PlainLoop:
    """A UNet with adapters, and what a step of the example does with it."""

    def __init__(self, family: Family, batch: Batch, *, rank: int, clip_norm: float) -> None:
        self.family = family
        self.device = family.device
        self.dtype = family.vae.dtype
        self.unet: Any = family.denoiser
        self.unet.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS
            )
        )
        self.unet.train()
        self.weights = [weight for weight in self.unet.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.noise_scheduler = DDPMScheduler.from_config(family.scheduler.config)
        self.clip_norm = clip_norm
        # The example's data loader hands over floats and tokens, on the host.
        self.pixels = batch.images.float() / 127.5 - 1
        (self.ids,) = (ids.cpu() for ids in family.tokenize(batch.captions))
        self.told = 0.0

    def step(self) -> None:
        """One optimizer step over one batch."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self._loss()
        # As gathered from all processes, for the log.
        mean = loss.repeat(len(self.pixels)).mean().item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.told = mean + loss.detach().item()  # and once more for the progress bar

    def _loss(self) -> Tensor:
        pixels = self.pixels.to(self.device, self.dtype)
        vae, (encoder,) = self.family.vae, self.family.text_encoders.values()
        latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = self.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (len(latents),), device=self.device)
        noised = self.noise_scheduler.add_noise(latents, noise, timesteps)
        context = encoder(self.ids.to(self.device), return_dict=False)[0]
        predicted = self.unet(noised, timesteps, context, return_dict=False)[0]
        return F.mse_loss(predicted.float(), noise.float(), reduction="mean")
