"""DeepSpeed around what is trained: ZeRO, precision, accumulation, clipping, learning rate."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig, TrainConfig, split_batch

# Elements per communication; explicit, since "auto" is not DeepSpeed's own and passes unread.
BUCKET_ELEMENTS = 100_000_000
PERSISTENCE_ELEMENTS = 100_000


def deepspeed_config(config: TrainConfig, ranks: int) -> dict[str, Any]:
    """The whole of DeepSpeed's config, from ours."""
    micro_batch, accumulation = split_batch(config, ranks)
    ours = {
        "train_batch_size": config.global_batch,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optim.clip_norm,
        # A gradient that is not finite must reach our own check: DeepSpeed's would skip the step
        # without a word.
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": False},
        "zero_optimization": _zero(config),
        "zero_allow_untested_optimizer": True,  # torch's AdamW needs no compiler on the node
        "zero_force_ds_cpu_optimizer": False,  # nor on the host
        "steps_per_print": 2**62,  # our journal prints
    }
    for key, value in config.deepspeed.items():
        mine = ours.get(key, {})
        ours[key] = {**mine, **value} if isinstance(mine, dict) and mine else value
    return ours


def _zero(config: TrainConfig) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero.stage}
    if config.zero.stage >= 1:
        zero["reduce_bucket_size"] = BUCKET_ELEMENTS
    if config.zero.stage == 3:
        zero["stage3_prefetch_bucket_size"] = BUCKET_ELEMENTS * 9 // 10
        zero["stage3_param_persistence_threshold"] = PERSISTENCE_ELEMENTS
    pin_memory = config.device == "cuda"
    if config.zero.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin_memory}
    if config.zero.offload_weights:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pin_memory}
    return zero


def start_engine(trained: nn.Module, config: TrainConfig, ranks: int) -> Any:
    """The DeepSpeed engine around what is trained."""
    import deepspeed

    optimizer = new_optimizer(trained, config)
    engine, *_ = deepspeed.initialize(
        model=trained,
        model_parameters=[w for group in optimizer.param_groups for w in group["params"]],
        optimizer=optimizer,
        config=deepspeed_config(config, ranks),
        dist_init_required=False,
    )
    return engine


def new_optimizer(trained: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable weights: a group for the denoiser's, one for the text encoders'."""
    optim = config.optim
    text_encoder_scale = (optim.text_encoder_lr or optim.lr) / optim.lr
    groups: list[dict[str, Any]] = [
        {"params": list(_trainable(trained, text_encoders=False)), "lr_scale": 1.0},
        {"params": list(_trainable(trained, text_encoders=True)), "lr_scale": text_encoder_scale},
    ]
    settings: dict[str, Any] = {
        "lr": optim.lr,
        "betas": optim.betas,
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
    }
    groups = [group for group in groups if group["params"]]
    if optim.eight_bit:
        return _eight_bit(groups, settings)
    # One kernel over all weights; on the host, where offloaded masters are, it is vectorised.
    fused = config.device == "cuda" or config.zero.offload_optimizer
    return torch.optim.AdamW(groups, fused=fused, **settings)


def _trainable(trained: nn.Module, *, text_encoders: bool) -> Iterator[nn.Parameter]:
    for name, weight in trained.named_parameters():
        if weight.requires_grad and name.startswith("text_encoder") == text_encoders:
            yield weight


def _eight_bit(groups: list[dict[str, Any]], settings: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "train.optim.eight_bit needs bitsandbytes, which is not installed here: "
            "pip install 'letterpress[eight-bit]', or set it to false"
        ) from None
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, **settings)
    return optimizer


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`, whatever the number of ranks."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(engine: Any, lr: float) -> None:
    """Use `lr` from the next optimizer step on; text encoders in proportion to their own peak."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def take_step(engine: Any) -> Tensor | float | None:
    """Step if the batch is whole; the norm of its gradients before clipping, None if it is not."""
    whole = engine.is_gradient_accumulation_boundary()
    norm: Tensor | float | None = None
    if whole and not engine.zero_optimization() and not engine.bfloat16_enabled():
        # Without ZeRO the weights hold averaged gradients, and DeepSpeed keeps no norm of them.
        weights = engine.module.parameters()
        norm = torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
    engine.step()
    return (norm if norm is not None else engine.get_global_grad_norm()) if whole else None
