"""What a segmenter is trained on, and how. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.data.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """Train a network that tells which character each latent of an autoencoder shows."""

    model: str
    """Whose autoencoder makes the latents: a diffusers folder, the hub name of one in the local
    cache, or a single file."""
    model_config: str | None = None
    """Where `model` is a single file: a diffusers folder of its kind, for configs and tokenizers;
    null looks for those of Stable Diffusion 1 and XL in the local cache."""
    data: DataConfig
    out: Path
    """The .safetensors file to write, in the names of TextDiffuser's segmenter."""
    steps: int
    """Optimizer steps."""
    batch: int = 32
    """Pictures in a step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW, after a warm-up of a tenth of the steps; then half a cosine."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of the U-Net's levels, each of half the grid above; these are TextDiffuser's."""
    held_out: int = 512
    """Samples that are not trained on, to tell the accuracy by."""
    seed: int = 0
    """First weights, order of the samples, and which are held out."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where it computes."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be 1 or more channels each, got {list(self.widths)}")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"out must be a .safetensors file, got {self.out}")
        if self.data.cache:
            raise ValueError("data.cache is not read for a segmenter: set it to null")
