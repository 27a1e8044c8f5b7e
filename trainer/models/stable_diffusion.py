"""Stable Diffusion 1 and 2, and SD-Turbo: one text encoder, an epsilon or velocity UNet."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from trainer.models.family import Conditioning, Family, TokenIds


class StableDiffusion(Family):
    """Rombach et al. 2022, and what has its shape."""

    pipeline_classes = (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline)

    @classmethod
    def load(cls, folder: Path, *, dtype_of: Callable[[str], torch.dtype]) -> Self:
        return cls(
            folder=folder,
            denoiser=UNet2DConditionModel.from_pretrained(
                folder, subfolder="unet", dtype=dtype_of("unet")
            ),
            vae=AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=dtype_of("vae")),
            text_encoders={
                "text_encoder": CLIPTextModel.from_pretrained(
                    folder, subfolder="text_encoder", dtype=dtype_of("text_encoder")
                )
            },
            tokenizers=(CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),),
            scheduler=DDPMScheduler.from_pretrained(folder, subfolder="scheduler"),
        )

    def encode_tokens(self, ids: TokenIds) -> Conditioning:
        (encoder,) = self.text_encoders.values()
        return Conditioning(encoder(ids[0]).last_hidden_state)

    def denoise(
        self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning, sizes: Tensor
    ) -> Tensor:
        answer: Tensor = self.denoiser(noised, timesteps, conditioning.context).sample
        return answer
