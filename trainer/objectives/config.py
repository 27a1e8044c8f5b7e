"""What a run learns, as a recipe says it. Imports no torch: a launcher checks it before it queues.

The loss is a sum of terms. A term is a settings class and a key of `ObjectiveConfig` here, a file
beside this one that computes it, and a line in `terms.py`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer.data.config import Truth


@dataclass(frozen=True, kw_only=True)
class TermConfig:
    """How much a term of the loss counts, when, and at which noise levels."""

    weight: float = 1.0
    """The term is multiplied by it."""
    start_step: int = 0
    """Optimizer steps before which it counts `start_weight`."""
    ramp_steps: int = 0
    """Optimizer steps after that in which it goes in a straight line to `weight`."""
    start_weight: float = 0.0
    """See `start_step`; 0 computes nothing until then."""
    timesteps: tuple[int, int] | None = None
    """First and last timestep that it looks at, of 0 to 999; null: all."""
    weigh_by_signal: bool = False
    """Weigh each sample by the square of the factor that its picture has in the noised one
    (alphas_cumprod), as AnyText does: what is guessed from noise counts little."""

    def __post_init__(self) -> None:
        for name in ("weight", "start_weight", "start_step", "ramp_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.timesteps and not 0 <= self.timesteps[0] <= self.timesteps[1]:
            raise ValueError(
                f"timesteps must be a first and a last one, got {list(self.timesteps)}"
            )

    def weight_at(self, step: int) -> float:
        """The weight in optimizer step `step`, from 0."""
        if step < self.start_step:
            return self.start_weight
        done = step - self.start_step
        if done >= self.ramp_steps:
            return self.weight
        return self.start_weight + (self.weight - self.start_weight) * done / self.ramp_steps


@dataclass(frozen=True, kw_only=True)
class OcrLossConfig(TermConfig):
    """What a recogniser reads in the answer, against what it reads in the original picture."""

    perceptual: float = 0.003
    """Weight of the squared distance of the recogniser's features; 0.003 is AnyText's."""
    ctc: float = 0.0
    """Weight of the cross-entropy of the text that it reads, per time step; AnyText's is 0."""
    recogniser: str | None = None
    """Where PP-OCR's recogniser lies; null: the one that the rapidocr wheel carries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("perceptual", "ctc"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not self.perceptual and not self.ctc:
            raise ValueError("perceptual and ctc are both 0: set one of them, or leave ocr out")


@dataclass(frozen=True, kw_only=True)
class CharacterLossConfig(TermConfig):
    """Which character each latent of the answer shows, as a frozen segmenter tells it."""

    weight: float = 0.01
    """The cross-entropy is multiplied by it; 0.01 is TextDiffuser's."""
    segmenter: Path
    """TextDiffuser's character_aware_loss_unet.pth, for the autoencoder of Stable Diffusion 1; or
    what `python -m trainer.segmenter` wrote for that of the model."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the network learns to predict, and what else is asked of its answer."""

    prediction: Literal["as_model", "epsilon", "v_prediction", "flow_prediction"] = "as_model"
    """Noise, velocity or flow; as_model: what the model was made for. Exports carry it."""
    caption_dropout: float = 0.0
    """Share of samples whose caption is emptied, so that guidance has something to push from."""
    min_snr_gamma: float = 0.0
    """Weigh timesteps by min(SNR, gamma) (Hang et al. 2023; 5 is usual); 0 weighs all the same."""
    noise_offset: float = 0.0
    """Add so much noise that is constant over each channel of a picture; 0.1 is usual."""
    mask_weight: float = 1.0
    """Weight of what shows text against the rest, whose mean stays 1; 1 needs no masks."""
    denoising: TermConfig = field(default_factory=TermConfig)
    """The squared error of the prediction, which all of the above is about."""
    ocr: OcrLossConfig | None = None
    """Lines of text have to be legible in the answer; null: not asked for."""
    characters: CharacterLossConfig | None = None
    """Character-aware loss on the latents; null: none."""
    gradient_shares_every: int = 0
    """Optimizer steps between two measurements of each term's share in the gradient that arrives at
    the denoiser's answer; 0 measures none."""

    def __post_init__(self) -> None:
        for name in ("min_snr_gamma", "noise_offset", "gradient_shares_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.mask_weight <= 0:
            raise ValueError(f"mask_weight must be positive, got {self.mask_weight}")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout must be 0 to 1, got {self.caption_dropout}")
        terms = [term for term in vars(self).values() if isinstance(term, TermConfig)]
        if not any(term.weight or term.start_weight for term in terms):
            raise ValueError("every term has weight 0: nothing would be learnt")

    @property
    def truth(self) -> dict[Truth, str]:
        """What has to be known of the pictures' text, and the key that asks for it."""
        asked: dict[Truth, str] = {}
        if self.mask_weight != 1:
            asked["masks"] = f"mask_weight {self.mask_weight:g}"
        if self.ocr:
            asked["lines"] = "ocr"
        if self.characters:
            asked["characters"] = "characters"
        return asked
