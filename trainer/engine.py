"""DeepSpeed around what is trained: ZeRO, precision, accumulation, clipping, learning rate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig, TrainConfig, split_batch

# Elements per communication; explicit, since "auto" is not DeepSpeed's own and passes unread.
BUCKET_ELEMENTS = 100_000_000
PERSISTENCE_ELEMENTS = 100_000


def deepspeed_config(config: TrainConfig, ranks: int) -> dict[str, Any]:
    """The whole of DeepSpeed's config, from ours."""
    zero: dict[str, Any] = {"stage": config.zero.stage}
    if config.zero.stage >= 1:
        zero["reduce_bucket_size"] = BUCKET_ELEMENTS
    if config.zero.stage == 3:
        zero["stage3_prefetch_bucket_size"] = BUCKET_ELEMENTS * 9 // 10
        zero["stage3_param_persistence_threshold"] = PERSISTENCE_ELEMENTS
    micro_batch, accumulation = split_batch(config, ranks)
    return {
        "train_batch_size": config.global_batch,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optim.clip_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's AdamW needs no compiler on the node
        "steps_per_print": 2**62,  # our journal prints
    }


def start_engine(trained: nn.Module, config: TrainConfig, ranks: int) -> Any:
    """The DeepSpeed engine around what is trained."""
    import deepspeed

    trainable = [weight for weight in trained.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable,
        lr=config.optim.lr,
        betas=config.optim.betas,
        weight_decay=config.optim.weight_decay,
    )
    engine, *_ = deepspeed.initialize(
        model=trained,
        model_parameters=trainable,
        optimizer=optimizer,
        config=deepspeed_config(config, ranks),
        dist_init_required=False,
    )
    return engine


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`, whatever the number of ranks."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(engine: Any, lr: float) -> None:
    """Use `lr` from the next optimizer step on."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


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


def gathered_weights(engine: Any) -> dict[str, Tensor]:
    """The trainable weights whole, on rank 0's CPU; empty elsewhere. Every rank must call it."""
    import deepspeed

    partitioned = engine.zero_optimization_partition_weights()
    state: dict[str, Tensor] = {}
    for name, weight in engine.module.named_parameters():
        if not weight.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters(
            [weight], enabled=partitioned
        ):  # one at a time: memory stays low
            if engine.global_rank == 0:
                state[name] = weight.detach().to("cpu", copy=True).contiguous()
    return state
