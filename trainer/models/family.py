"""What Letterpress asks of a kind of text-to-image model, whichever it is.

A family is one file that subclasses `Family` and one line in `pipeline.py`'s FAMILIES. Everything
else here (objectives, engine, checkpoints, exports, the farm) knows no kind by name.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from trainer.models.source import Source


class Conditioning(NamedTuple):
    """What a denoiser is told of a batch of captions."""

    context: Tensor
    """The text encoders' hidden states: batch tokens dim."""
    pooled: Tensor | None = None
    """A vector per caption, where the family has one: batch dim."""


TokenIds = tuple[Tensor, ...]
"""The captions' tokens for each text encoder, int64: batch tokens."""


@dataclass(frozen=True, kw_only=True)
class WebUiNames:
    """What web UIs (A1111, ComfyUI) call the networks of a family in the files that they load."""

    version: str
    """The base model, as kohya's files name it."""
    lora: Mapping[str, str]
    """What the layers of each network's adapters begin with."""
    lora_unet_is_ldm: bool
    """Whether the layers of the UNet's adapters have the names of `ldm.py`, or else diffusers'."""
    single_file: Mapping[str, str]
    """What the weights of each network begin with in a single file."""


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """The networks of one pipeline, under the names that diffusers gives them."""

    source: Source
    """Where they came from."""
    denoiser: nn.Module
    vae: AutoencoderKL
    text_encoders: Mapping[str, nn.Module]
    """By name, in the order in which `tokenize` answers: text_encoder, text_encoder_2 …"""
    tokenizers: Sequence[Any]
    scheduler: DDPMScheduler
    """The noise schedule that the denoiser was trained on."""
    rest: Mapping[str, Any]
    """What else the pipeline is made of: parts that are not trained, and its settings."""

    pipeline_classes: ClassVar[tuple[type[DiffusionPipeline], ...]]
    """diffusers' pipelines that are of this family; the first makes pictures of a caption."""
    pipeline_settings: ClassVar[Mapping[str, Any]] = {}
    """How pipelines are opened, whatever the model says."""
    denoiser_name: ClassVar[str] = "unet"
    """The denoiser's name in the pipeline, and in the names of its weights."""

    @classmethod
    def load(cls, source: Source, *, dtype_of: Callable[[str], torch.dtype]) -> Self:
        """Load the networks; `dtype_of` tells each one's dtype by its name."""
        # A single file is opened in fp32: rounded once, from whatever it holds.
        by_name = {name: dtype_of(name) for name in source.index}
        dtype = torch.float32 if source.is_file else by_name
        pipeline = source.open(cls.pipeline_classes[0], dtype=dtype, **cls.pipeline_settings)
        parts = dict(pipeline.components)
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                part.to(dtype_of(name))
        encoders = [name for name in _numbered("text_encoder") if name in parts]
        return cls(
            source=source,
            denoiser=parts.pop(cls.denoiser_name),
            vae=parts.pop("vae"),
            text_encoders={name: parts.pop(name) for name in encoders},
            tokenizers=[parts.pop(name) for name in _numbered("tokenizer") if name in parts],
            scheduler=DDPMScheduler.from_config(parts.pop("scheduler").config),
            rest={**_settings_of(pipeline), **cls.pipeline_settings, **parts},
        )

    @abstractmethod
    def encode_tokens(self, ids: TokenIds) -> Conditioning:
        """What the text encoders make of tokens; gradients pass."""

    @abstractmethod
    def denoise(
        self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning, sizes: Tensor
    ) -> Tensor:
        """The denoiser's answer to noised latents (batch channels h w), of the same shape.

        `sizes` (batch 6) tells how the pictures were framed, in pixels: original height and width,
        top and left of the crop, height and width of what is seen.
        """

    def predict(
        self,
        noised: Tensor,
        timesteps: Tensor,
        captions: TokenIds | Conditioning,
        sizes: Tensor,
    ) -> Tensor:
        """`denoise`, of captions that are not encoded yet or are; gradients pass."""
        if not isinstance(captions, Conditioning):
            captions = self.encode_tokens(captions)
        return self.denoise(noised, timesteps, captions, sizes)

    @property
    @abstractmethod
    def web_ui_names(self) -> WebUiNames:
        """What the networks are called in the files of web UIs."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Denoiser and text encoders by name: what can be trained."""
        return {self.denoiser_name: self.denoiser, **self.text_encoders}

    @property
    def latent_scale(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, height: int, width: int, whose: str) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture of so many pixels.

        ValueError, which begins with `whose`, if the model takes none of that size.
        """
        scale = self.latent_scale
        if height % scale or width % scale:
            raise ValueError(
                f"{whose} {width} x {height} pixels: this model takes multiples of {scale}"
            )
        return int(self.vae.config.latent_channels), height // scale, width // scale

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return torch.device(self.vae.device)

    def to(self, device: torch.device) -> Self:
        """Move every network; the frozen ones are set to answer the same each time."""
        for network in (*self.networks.values(), self.vae):
            network.to(device).eval().requires_grad_(False)
        return self

    @torch.no_grad()
    def encode_images(self, images: Tensor, posterior_noise: Tensor) -> Tensor:
        """uint8 RGB pictures (batch 3 height width) as scaled latents (batch channels h w).

        `posterior_noise` picks the sample of the autoencoder's posterior: mean + std * noise.
        """
        mean, std = self.encode_posterior(images)
        return self.scale_latents(mean + std * posterior_noise.to(mean))

    @torch.no_grad()
    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the autoencoder's posterior, each batch channels h w."""
        pixels = images.to(self.vae.device, self.vae.dtype) / 127.5 - 1
        posterior = self.vae.encode(pixels).latent_dist
        return posterior.mean, posterior.std

    def scale_latents(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents as the denoiser sees them, of about unit variance."""
        return (latents - self._latent_shift) * float(self.vae.config.scaling_factor)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (batch channels h w) as RGB: fp32, batch 3 height width; gradients pass.

        0 to 1 and somewhat beyond: nothing is clipped.
        """
        inputs = latents / float(self.vae.config.scaling_factor) + self._latent_shift
        pixels: Tensor = self.vae.decode(inputs.to(self.vae.dtype)).sample
        return pixels.float() / 2 + 0.5

    @property
    def _latent_shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    def tokenize(self, captions: Sequence[str]) -> TokenIds:
        """The tokens of captions for each text encoder; what is too long is cut."""
        return tuple(
            tokenizer(
                list(captions),
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids.to(self.device)
            for tokenizer in self.tokenizers
        )

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has before it is cut, its start and end included."""
        return [len(ids) for ids in self.tokenizers[0](list(captions)).input_ids]

    def pipeline(self, scheduler: Any, **networks: nn.Module) -> DiffusionPipeline:
        """diffusers' pipeline around these networks; `networks` take the place of their own."""
        tokenizers = dict(zip(_numbered("tokenizer"), self.tokenizers, strict=False))
        parts = {**self.rest, **self.networks, "vae": self.vae, **tokenizers, **networks}
        pipeline = self.pipeline_classes[0](scheduler=scheduler, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _settings_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    names = set(inspect.signature(type(pipeline).__init__).parameters) - set(pipeline.components)
    return {name: pipeline.config[name] for name in names if name in pipeline.config}


def _numbered(name: str) -> tuple[str, str, str]:
    return (name, f"{name}_2", f"{name}_3")
