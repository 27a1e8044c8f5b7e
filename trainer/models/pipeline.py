"""Loading Stable Diffusion pipelines: whole for making pictures, in parts for training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from cluster.run_folder import MANIFEST, verify

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The networks of a pipeline; all but the UNet are frozen."""

    folder: Path
    """The diffusers folder that they came from."""
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler

    @property
    def latent_scale(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode_images(self, images: Tensor, posterior_noise: Tensor) -> Tensor:
        """uint8 RGB pictures (batch 3 height width) as scaled latents (batch channels h w).

        `posterior_noise` picks the sample of the autoencoder's posterior: mean + std * noise.
        """
        pixels = images.to(self.vae.device, self.vae.dtype) / 127.5 - 1
        posterior = self.vae.encode(pixels).latent_dist
        noise = posterior_noise.to(posterior.mean)
        latents: Tensor = posterior.mean + posterior.std * noise
        return latents * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def encode_captions(self, captions: list[str]) -> Tensor:
        """Captions as the UNet's context: batch tokens dim."""
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        ids = tokens.input_ids.to(self.text_encoder.device)
        hidden: Tensor = self.text_encoder(ids).last_hidden_state
        return hidden


def find_model(model: str) -> Path:
    """The folder of a diffusers pipeline: `model` itself, or its snapshot in the hub cache."""
    if Path(model, "model_index.json").is_file():
        return Path(model)
    if Path(model).exists():
        raise ValueError(f"model {model} is no diffusers folder: it holds no model_index.json")
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ValueError(
            f"model {model!r} is neither a folder nor in the Hugging Face cache "
            f"({constants.HF_HUB_CACHE}): give the path of a diffusers folder, or fill the cache"
        ) from None


def load_parts(model: str, *, device: torch.device, dtype: torch.dtype) -> Parts:
    """Load what training needs; the frozen networks in `dtype`, the UNet in fp32."""
    folder = find_model(model)
    index = json.loads((folder / "model_index.json").read_text())
    if index.get("unet", [None, None])[1] != "UNet2DConditionModel":
        raise ValueError(f"model {model} is a {index.get('_class_name')}, not a Stable Diffusion")
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=dtype)
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=dtype)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=torch.float32)
    return Parts(
        folder=folder,
        unet=unet.to(device),
        vae=vae.to(device).eval().requires_grad_(False),
        text_encoder=text_encoder.to(device).eval().requires_grad_(False),
        tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        scheduler=DDPMScheduler.from_pretrained(folder, subfolder="scheduler"),
    )


def load_pipeline(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """Load an export of ours, or any diffusers folder, ready to make pictures.

    An export is checked against its manifest first: BrokenFolder names what differs.
    """
    facts = export_facts(folder)
    base = find_model(str(facts["base"] if facts.get("kind") == "lora" else folder))
    pipeline = StableDiffusionPipeline.from_pretrained(
        base, dtype=dtype, safety_checker=None, local_files_only=True
    )
    if facts.get("kind") == "lora":
        pipeline.load_lora_weights(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def export_facts(folder: str | Path) -> dict[str, Any]:
    """The manifest of an export; empty for a diffusers folder that is not one of ours."""
    if not Path(folder, MANIFEST).is_file():
        return {}
    return verify(Path(folder))
