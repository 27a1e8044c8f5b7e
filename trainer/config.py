"""What a training run is made of. Imports no torch: a launcher checks a run before it queues."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trainer.data.config import DataConfig
from trainer.deepspeed_settings import check_settings
from trainer.objectives.config import ObjectiveConfig
from trainer.objectives.reward_config import RewardConfig

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
class OptimConfig:
    """AdamW and its learning rate, all counted in optimizer steps."""

    lr: float = 1e-4
    """Peak learning rate, reached after the warm-up."""
    text_encoder_lr: float | None = None
    """Peak learning rate of the text encoders, where they are trained; null: the same."""
    eight_bit: bool = False
    """Keep AdamW's moments in 8 bits (bitsandbytes, on a GPU): a quarter of their memory."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay, or fall to zero at the last step along a half cosine."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    eps: float = 1e-8
    """AdamW's guard against division by zero."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.text_encoder_lr is not None and self.text_encoder_lr <= 0:
            raise ValueError(f"text_encoder_lr must be positive, got {self.text_encoder_lr}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be 0 or more, got {self.warmup_steps}")
        if self.clip_norm < 0:
            raise ValueError(f"clip_norm must be 0 or more, got {self.clip_norm}")


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """DeepSpeed ZeRO (Rajbhandari et al. 2020)."""

    stage: Literal[0, 1, 2, 3] = 2
    """0 splits nothing, 1 the optimizer state, 2 also the gradients, 3 also the weights."""
    offload_optimizer: bool = False
    """Keep masters and moments in host memory, and step there; stages 1 to 3."""
    offload_weights: bool = False
    """Keep the weights in host memory too; stage 3."""

    def __post_init__(self) -> None:
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        if self.offload_weights and self.stage != 3:
            raise ValueError(f"offload_weights needs stage 3, not {self.stage}")


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """A running average of the weights, which the exports then hold."""

    decay: float = 0.9999
    """Share of the old average that each step keeps, once it has ramped up."""
    start_step: int = 0
    """The average begins with the weights after this step."""
    every: int = 1
    """Steps between two updates."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be 0 to 1, got {self.decay}")
        if self.start_step < 0 or self.every < 1:
            raise ValueError("start_step must be 0 or more, and every at least 1")


@dataclass(frozen=True, kw_only=True)
class KeepConfig:
    """Which checkpoints stay; exports are never removed."""

    newest: int = 0
    """So many of the newest; 0 keeps all."""
    best: int = 0
    """So many of those with the best `metric`, besides."""
    metric: str = "validation_loss"
    """validation_loss, or a farm's metric as suite/metric, such as mini/ocr_f1."""

    def __post_init__(self) -> None:
        if self.newest < 0 or self.best < 0:
            raise ValueError("newest and best must be 0 or more")
        if self.best and not self.newest:
            raise ValueError("best counts besides newest: set newest to at least 1")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The loss on a fixed grid of samples, noise and timesteps, split over all ranks."""

    samples: int
    """Pictures; with `path` null they are the last of the training folder, and left out there."""
    path: Path | None = None
    """Another folder of indexed shards to take them from."""
    timesteps: int = 8
    """Equidistant timesteps at which each picture is tried: the bands of the curves."""
    every: int = 500
    """Steps between two validations; the first is before training."""

    def __post_init__(self) -> None:
        for name in ("samples", "timesteps", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class EarlyStopConfig:
    """End the run when a metric has not got better for a while."""

    patience: int
    """Values in a row that are no better than the best before them."""
    metric: str = "validation_loss"
    """train_loss (its mean between two validations or saves), validation_loss, or a farm's metric
    as suite/metric."""
    min_delta: float = 0.0
    """By how much a value has to be better to count."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        if self.min_delta < 0:
            raise ValueError(f"min_delta must be 0 or more, got {self.min_delta}")


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """What trades memory for time, or start-up for speed. None of it changes what is learnt."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower."""
    compile: bool = False
    """torch.compile each repeated block of the denoiser; the first step of each size is slow."""
    channels_last: bool = False
    """Keep pictures as batch height width channels: faster convolutions on a GPU."""
    tf32: bool = True
    """Let matrix products in fp32 use a GPU's TF32 units."""


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
    export_dtype: Literal["as_precision", "fp16", "bf16", "fp32"] = "as_precision"
    """Dtype of networks in exports that were trained whole; adapters stay fp32."""
    save_every: int = 500
    """Steps between checkpoints, each with an export. The last step is always saved."""
    log_every: int = 10
    """Steps between two readings of the losses from the device."""
    seed: int = 0
    """Order of the samples, their noise and their timesteps."""
    on_broken_loss: Literal["stop", "skip"] = "stop"
    """When a loss is not finite: stop and name the samples, or leave that forward pass out, count
    it and go on. Skipping waits for the device at every step."""
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
    reward: RewardConfig | None = None
    """Tune by rewards, on prompts, in place of the objective; null: learn from pictures."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    ema: EmaConfig | None = None
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    validation: ValidationConfig | None = None
    early_stop: EarlyStopConfig | None = None
    keep: KeepConfig = field(default_factory=KeepConfig)
    preview: PreviewConfig | None = None
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """More of DeepSpeed's own settings, laid over what the keys above make."""

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch", "micro_batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.unet == self.text_encoder == "frozen":
            raise ValueError("unet and text_encoder are both frozen: nothing would be trained")
        if "lora" not in (self.unet, self.text_encoder) and self.lora is not None:
            raise ValueError("lora has settings, but neither unet nor text_encoder is lora")
        if self.reward:
            _check_reward(self.reward, self)
        if self.validation is None:
            _check_metrics(self)
        check_settings(self.deepspeed)

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


def _check_metrics(config: TrainConfig) -> None:
    """ValueError if something waits for a validation loss that nobody measures."""
    asked = {
        "early_stop": config.early_stop and config.early_stop.metric,
        "keep": config.keep.metric if config.keep.best else None,
    }
    for key, metric in asked.items():
        if metric == "validation_loss":
            raise ValueError(
                f"{key}.metric is validation_loss, and validation is null: set validation, or "
                f"{key}.metric to train_loss or a farm's metric, such as mini/ocr_f1"
            )


def _check_reward(reward: RewardConfig, config: TrainConfig) -> None:
    """ValueError names what is of pictures that are learnt from, and of no use to rewards."""
    if config.objective != ObjectiveConfig():
        raise ValueError("reward takes the place of the objective: leave objective out")
    if config.validation:
        raise ValueError("validation is of the loss on pictures: with reward leave it null")
    if config.data.cache or config.data.resolution:
        raise ValueError(
            "reward draws pictures of its own, reward.height x reward.width pixels: leave "
            "data.cache and data.resolution null"
        )
    if reward.pull and config.text_encoder == "frozen":
        raise ValueError("reward.pull holds a text encoder back that is frozen: leave it 0")


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
