"""What a training run is made of. Imports no torch: a launcher checks a run before it queues."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from trainer.data.config import DataConfig

How = Literal["full", "lora", "frozen"]
DENOISERS = ("unet",)  # the names that pipelines give the network that takes the noise away


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021), by peft, where a network is to be trained so."""

    rank: int = 8
    """Rank of each adapter."""
    alpha: float = 8.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the adapter, 0 to 1."""
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """The UNet's layers that get one; a name matches where a module's own name ends with it."""
    text_encoder_target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    """The text encoders' layers that get one, in the same way."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be 0 to 1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the network learns to predict."""

    prediction: Literal["as_model", "epsilon", "v_prediction"] = "as_model"
    """Noise or velocity; as_model: what the model's scheduler was made for. Exports carry it."""
    caption_dropout: float = 0.0
    """Share of samples whose caption is emptied, so that guidance has something to push from."""

    def __post_init__(self) -> None:
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout must be 0 to 1, got {self.caption_dropout}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning rate, all counted in optimizer steps."""

    lr: float = 1e-4
    """Peak learning rate, reached after the warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay, or fall to zero at the last step along a half cosine."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be 0 or more, got {self.warmup_steps}")
        if self.clip_norm < 0:
            raise ValueError(f"clip_norm must be 0 or more, got {self.clip_norm}")


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """DeepSpeed ZeRO (Rajbhandari et al. 2020)."""

    stage: Literal[0, 1, 2, 3] = 2
    """0 splits nothing, 1 the optimizer state, 2 also the gradients, 3 also the weights."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """A few pictures that the trainer itself makes at each export: a look, not a score."""

    prompts: tuple[str, ...]
    """One picture each."""
    sampler_steps: int = 20
    """Denoising steps."""
    guidance: float = 4.0
    """Classifier-free guidance; 1 is without."""
    seed: int = 0
    """Picture i starts from the noise of seed + i."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune a text-to-image diffusion model."""

    model: str
    """Folder of a diffusers pipeline, the hub name of one in the local cache, or a single file."""
    model_config: str | None = None
    """Where `model` is a single file: a diffusers folder of its kind, for configs and tokenizers;
    null looks for those of Stable Diffusion 1 and XL in the local cache."""
    data: DataConfig
    steps: int
    """Optimizer steps in the whole run."""
    global_batch: int
    """Images per optimizer step over all ranks, however many there are."""
    micro_batch: int = 1
    """Images per rank and forward pass, at most; the rest of a global batch is accumulated."""
    save_every: int = 500
    """Steps between checkpoints, each with an export. The last step is always saved."""
    log_every: int = 10
    """Steps between two readings of the losses from the device."""
    seed: int = 0
    """Order of the samples, their noise and their timesteps."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where the ranks compute."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Dtype of the forward pass; the optimizer's master weights are fp32 either way."""
    unet: How = "full"
    """Train every weight of the UNet, or low-rank adapters in it, or leave it."""
    text_encoder: How = "frozen"
    """The same choice for the text encoder; where a model has two, for both."""
    lora: LoraConfig | None = None
    """Settings of the adapters; null where there are none, or for the defaults."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    preview: PreviewConfig | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch", "micro_batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.unet == self.text_encoder == "frozen":
            raise ValueError("unet and text_encoder are both frozen: nothing would be trained")
        if "lora" not in (self.unet, self.text_encoder) and self.lora is not None:
            raise ValueError("lora has settings, but neither unet nor text_encoder is lora")

    def how(self, network: str) -> How:
        """How a network is trained, by its name in the pipeline: unet, text_encoder_2, vae …"""
        if network.startswith("text_encoder"):
            return self.text_encoder
        return self.unet if network in DENOISERS else "frozen"


class BatchSplit(NamedTuple):
    """How a global batch is computed."""

    micro_batch: int
    """Images per rank and forward pass."""
    accumulation: int
    """Forward passes per rank and optimizer step."""


def split_batch(config: TrainConfig, ranks: int) -> BatchSplit:
    """The fewest equal forward passes of at most `micro_batch` images; ValueError if none are.

    So a recipe means the same, to the sample, on any number of ranks that divides its batch.
    """
    share, rest = divmod(config.global_batch, ranks)
    if rest or not share:
        near = [str(size) for size in (share * ranks, (share + 1) * ranks) if size]
        raise ValueError(
            f"train.global_batch {config.global_batch} cannot be split evenly over {ranks} ranks: "
            f"take {' or '.join(near)}"
        )
    micro_batch = max(n for n in range(1, config.micro_batch + 1) if share % n == 0)
    return BatchSplit(micro_batch, share // micro_batch)
