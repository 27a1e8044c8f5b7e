"""Models of known shapes with random weights, for measuring what weights of any value cost."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from trainer.mini.networks import new_tokenizer

TOKENS = 77
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The configs of a model's networks, where they differ from Stable Diffusion 1's."""

    unet: dict[str, Any]
    text_encoders: tuple[dict[str, Any], ...]
    """The last one of several has a projection, as SDXL's."""
    vae: dict[str, Any] = field(default_factory=dict)
    resolution: int
    """Side in pixels of the pictures that it was made for."""


CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD15_UNET = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD_VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
SMALL_VAE = {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8}
SMALL_CLIP = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
# Few heads: a GPU's attention kernels want at least 32 channels in each.
SMALL_UNET = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 128,
    "attention_head_dim": 2,
}
SHAPES = {
    "sd15": Shape(unet={}, text_encoders=(CLIP_L,), resolution=512),
    "sdxl": Shape(unet=SDXL_UNET, text_encoders=(CLIP_L, CLIP_G), resolution=1024),
    "small": Shape(
        unet=SMALL_UNET | {"block_out_channels": (192, 384)},
        text_encoders=(SMALL_CLIP,),
        vae=SMALL_VAE,
        resolution=256,
    ),
    "tiny": Shape(
        unet=SMALL_UNET | {"block_out_channels": (64, 128), "layers_per_block": 1},
        text_encoders=(SMALL_CLIP,),
        vae=SMALL_VAE,
        resolution=128,
    ),
}
"""sd15 and sdxl have the real ones' configs; small and tiny have their parts, and run on a CPU."""


def write_model(name: str, folder: Path, device: str = "cpu") -> Path:
    """Write a diffusers folder of random weights in 16 bits; `device` draws them."""
    torch.manual_seed(0)
    with torch.device(device):
        networks = new_networks(name)
    for network in networks.values():
        network.to(torch.float16)
    numbers = range(1, 1 + len(SHAPES[name].text_encoders))
    tokenizers = {_numbered("tokenizer", number): new_tokenizer(TOKENS) for number in numbers}
    _pipeline(networks | tokenizers).save_pretrained(folder)
    del networks, network
    if device != "cpu":
        torch.cuda.empty_cache()  # for the ranks, which are other processes
    return folder


def new_networks(name: str) -> dict[str, Any]:
    """The networks of a shape by their names in the pipeline, on torch's default device."""
    shape = SHAPES[name]
    unet, vae = {**SD15_UNET, **shape.unet}, {**SD_VAE, **shape.vae}
    vae["down_block_types"] = ("DownEncoderBlock2D",) * len(vae["block_out_channels"])
    vae["up_block_types"] = ("UpDecoderBlock2D",) * len(vae["block_out_channels"])
    networks: dict[str, Any] = {
        "unet": UNet2DConditionModel(sample_size=shape.resolution // 8, **unet),
        "vae": AutoencoderKL(**vae),
    }
    for number, size in enumerate(shape.text_encoders, 1):
        config = CLIPTextConfig(
            max_position_embeddings=TOKENS,
            num_attention_heads=size["hidden_size"] // 64,
            projection_dim=size["hidden_size"],
            **size,
        )
        cls = CLIPTextModel if number == 1 else CLIPTextModelWithProjection
        networks[_numbered("text_encoder", number)] = cls(config)
    return networks


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _pipeline(parts: dict[str, Any]) -> DiffusionPipeline:
    scheduler = DDPMScheduler(**SCHEDULE)
    if "text_encoder_2" in parts:
        return StableDiffusionXLPipeline(scheduler=scheduler, **parts)
    return StableDiffusionPipeline(
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
