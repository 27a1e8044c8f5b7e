"""The mini model's networks, untrained: all that Stable Diffusion has, only smaller."""

from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How wide the networks are. Tests take smaller ones."""

    autoencoder: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of each level; each level after the first halves the picture."""
    latent_channels: int = 8
    unet: tuple[int, ...] = (128, 112)
    """Channels of each level."""
    text_dim: int = 128
    text_layers: int = 2
    vision_layers: int = 3
    max_tokens: int = 40
    """Characters of a caption that are read, its start and end included."""
    shared_dim: int = 64
    """CLIP's space that pictures and captions share."""


def new_tokenizer(max_tokens: int) -> CLIPTokenizer:
    """CLIP's own tokenizer without merges: it sees characters, in lower case as CLIP does."""
    letters = ascii_lowercase + digits + punctuation
    names = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    vocabulary = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=max_tokens)


def new_autoencoder(size: Size) -> AutoencoderKL:
    """RGB in [-1, 1] to latents and back."""
    levels = len(size.autoencoder)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.autoencoder,
        latent_channels=size.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=96,
    )


def new_clip(size: Size, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP whose text tower becomes the pipeline's text encoder."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_dim,
        intermediate_size=4 * size.text_dim,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_dim // 32,
        max_position_embeddings=size.max_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=size.text_dim,
        intermediate_size=4 * size.text_dim,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.text_dim // 32,
        image_size=96,
        patch_size=12,
    )
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=size.shared_dim,
    )
    return CLIPModel(config)


def new_image_processor() -> CLIPImageProcessorPil:
    """Pictures of any shape as CLIP's square, whole: a crop would cut words."""
    return CLIPImageProcessorPil(size={"height": 96, "width": 96}, do_center_crop=False)


def text_encoder_of(clip: CLIPModel) -> CLIPTextModel:
    """The text tower of a CLIP as a network of its own."""
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(clip.text_model.state_dict())
    return encoder


def new_unet(size: Size) -> UNet2DConditionModel:
    """The denoiser. Attention to the caption stands at full latent resolution, 4 x 12."""
    attention_down = ("CrossAttnDownBlock2D",) + ("DownBlock2D",) * (len(size.unet) - 1)
    attention_up = ("UpBlock2D",) * (len(size.unet) - 1) + ("CrossAttnUpBlock2D",)
    return UNet2DConditionModel(
        sample_size=(4, 12),
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        block_out_channels=size.unet,
        down_block_types=attention_down,
        up_block_types=attention_up,
        layers_per_block=1,
        cross_attention_dim=size.text_dim,
        attention_head_dim=size.unet[0] // 32,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Velocity prediction on a schedule that ends in pure noise, where sampling starts."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def new_pipeline(
    size: Size, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """A whole pipeline around trained encoders, its UNet untrained."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=new_unet(size),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_model(
    folder: Path, size: Size, vae: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer
) -> None:
    """Write a pipeline around these encoders, and the whole of CLIP in `folder`/clip."""
    new_pipeline(size, vae, text_encoder_of(clip), tokenizer).save_pretrained(folder)
    for part in (clip, tokenizer, new_image_processor()):
        part.save_pretrained(folder / "clip")


def set_latent_scale(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Make the scaled latents of typical pictures have unit variance (Rombach et al. 2022, G)."""
    vae.register_to_config(scaling_factor=1 / float(latents.std()))
