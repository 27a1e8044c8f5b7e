"""What learns: the engine, its master weights and their running average, at one step of the run."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoint import Checkpoint
from trainer.config import SpeedConfig, TrainConfig
from trainer.distributed import World
from trainer.ema import EMA, Ema
from trainer.engine import start_engine
from trainer.masters import MASTER, Masters
from trainer.models.family import Family
from trainer.models.trained import Trained


@dataclass
class Learner:
    """All that a checkpoint saves and an optimizer step changes."""

    engine: Any
    masters: Masters
    ema: Ema | None
    step: int
    """Optimizer steps done."""
    history: dict[str, dict[int, float]]
    """What the run has measured of itself so far: train_loss and validation_loss by step."""


def start_learner(
    family: Family, config: TrainConfig, world: World, checkpoint: Checkpoint | None
) -> Learner:
    """The networks that `config` trains under DeepSpeed, as `checkpoint` left them if there is one.

    The checkpoint may have been written at another stage and by any number of ranks. ValueError if
    it holds other weights than the recipe trains.
    """
    trained = Trained(family, config)
    make_fast(family, config.speed)
    weights = _first_weights(trained, config, checkpoint)
    engine = start_engine(trained, config, world.ranks)
    masters = Masters(engine, world.rank, world.ranks)
    if config.precision == "bf16":
        # DeepSpeed makes the masters from weights that it has rounded to bf16 already.
        masters.load(weights)
    ema = Ema(masters, config.ema) if config.ema else None
    if checkpoint is None:
        return Learner(engine, masters, ema, 0, {})
    masters.load_moments(checkpoint)
    if ema and EMA in checkpoint.kinds:
        ema.load(checkpoint)
    return Learner(engine, masters, ema, checkpoint.step, checkpoint.history)


def make_fast(family: Family, config: SpeedConfig) -> None:
    """Apply what a recipe says of speed and memory to the networks, before the engine is made."""
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    if config.gradient_checkpointing:
        family.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        for encoder in family.text_encoders.values():
            encoder.gradient_checkpointing_enable()  # type: ignore[operator]
    if config.channels_last:
        # At each, for attention answers in the other layout; the weights' own is DeepSpeed's.
        for layer in family.denoiser.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(_in_channels_last)
    if config.compile:
        # In place and block by block: no other names in checkpoints, one compilation per kind.
        family.denoiser.compile_repeated_blocks()  # type: ignore[operator]


def _in_channels_last(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A convolution's input (batch channels h w), as batch h w channels in memory."""
    (pictures,) = inputs
    return (pictures.contiguous(memory_format=torch.channels_last),)


def _first_weights(
    trained: nn.Module, config: TrainConfig, checkpoint: Checkpoint | None
) -> dict[str, Tensor]:
    """What is trained, whole and in fp32, as it starts; the networks then hold it too.

    Empty where the model's own weights are their own masters.
    """
    if checkpoint:
        _check_same_weights(trained, checkpoint)
        weights = checkpoint.weights(MASTER)
        trained.load_state_dict(weights, strict=False)
        return weights
    if config.precision == "fp32":
        return {}
    return {
        name: weight.detach().to("cpu", torch.float32, copy=True)
        for name, weight in trained.named_parameters()
        if weight.requires_grad
    }


def _check_same_weights(trained: nn.Module, checkpoint: Checkpoint) -> None:
    wanted = {n: tuple(w.shape) for n, w in trained.named_parameters() if w.requires_grad}
    if wanted == checkpoint.shapes:
        return
    differ = sorted(
        name
        for name in wanted.keys() | checkpoint.shapes.keys()
        if wanted.get(name) != checkpoint.shapes.get(name)
    )
    raise ValueError(
        f"{checkpoint.folder} holds other weights than this recipe trains, such as {differ[0]} "
        f"({len(differ)} of {len(wanted)} differ): resume with the recipe that wrote it, or take "
        "another name"
    )
