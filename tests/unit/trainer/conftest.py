"""Models of each family, random and tiny, with the oddities of the real ones in their configs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_lowercase, digits, punctuation
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MAX_TOKENS = 16
SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    # In the real models' files, though not all of their schedulers know them.
    "clip_sample": False,
    "set_alpha_to_one": False,
}
FAMILIES = ("sd1", "sd2", "turbo", "sdxl")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are done sooner by one thread than by several that fight for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model by its name in FAMILIES, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("families")

    def model(name: str) -> Path:
        if not (folder / name).exists():
            torch.manual_seed(FAMILIES.index(name))
            pipeline = _sdxl() if name == "sdxl" else _sd(name)
            pipeline.save_pretrained(folder / name)
        return folder / name

    return model


def _sd(name: str) -> StableDiffusionPipeline:
    first = name == "sd1"
    tokenizer = _tokenizer("<|endoftext|>" if first else "!")
    scheduler = {
        "sd1": PNDMScheduler.from_config({**SCHEDULE, "skip_prk_steps": True}),
        "sd2": DDIMScheduler.from_config({**SCHEDULE, "prediction_type": "v_prediction"}),
        "turbo": EulerDiscreteScheduler.from_config({**SCHEDULE, "timestep_spacing": "trailing"}),
    }[name]
    return StableDiffusionPipeline(
        vae=_vae(scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_clip(tokenizer, 32, "quick_gelu" if first else "gelu")),
        tokenizer=tokenizer,
        unet=_unet(context=32, use_linear_projection=not first),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    tokenizers = [_tokenizer("<|endoftext|>"), _tokenizer("!")]
    first, second = _clip(tokenizers[0], 32, "quick_gelu"), _clip(tokenizers[1], 64, "gelu")
    return StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=_unet(
            context=96,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler.from_config({**SCHEDULE, "timestep_spacing": "leading"}),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _tokenizer(pad: str) -> CLIPTokenizer:
    """CLIP's, by letters; as in the real ones "!" is token 0 and the end the highest."""
    letters = sorted(ascii_lowercase + digits + punctuation)
    names = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {name: n for n, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=pad, model_max_length=MAX_TOKENS)


def _clip(tokenizer: CLIPTokenizer, dim: int, hidden_act: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        intermediate_size=2 * dim,
        projection_dim=dim,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        hidden_act=hidden_act,
        # As the real models' files say, though their tokenizers say otherwise.
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def _vae(scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
    )


def _unet(*, context: int, **settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=context,
        attention_head_dim=8,
        norm_num_groups=8,
        **settings,
    )
