"""How much memory a rank needs at each ZeRO stage, from the recipe and the shapes of the weights.

Counted as what DeepSpeed 0.19 and autograd hold at the worst of three moments of a step: while
pictures are encoded, in the backward pass, and when the optimizer steps. benchmarks/memory.py
measures the same.
"""

from dataclasses import dataclass, fields, replace

from launcher.plan.workload import Workload, bytes_per_element
from trainer.config import TrainConfig, ZeroConfig, split_batch

STAGES = (0, 1, 2, 3)
# Elements per communication, unless train.deepspeed says otherwise: trainer/engine.py gives the
# first two, DeepSpeed itself the others.
BUCKET_ELEMENTS = 100_000_000
PREFETCH_ELEMENTS = 90_000_000
LIVE_ELEMENTS = 1_000_000_000
REDUCE_ELEMENTS = 500_000_000


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one rank at the moment when they are most."""

    moment: str
    weights: float
    """Of the networks that are trained; the ones that are only used are `frozen`."""
    optimizer: float
    """fp32 masters, where weights are not their own, and AdamW's moments."""
    ema: float
    frozen: float
    gradients: float = 0.0
    activations: float = 0.0
    buffers: float = 0.0
    """For communication, and copies that the optimizer's step makes."""
    host: float = 0.0
    """In the host's memory instead, per rank; not part of the total."""

    @property
    def computed_with(self) -> float:
        """Bytes of networks, activations and gradients: without the optimizer's and DeepSpeed's."""
        return self.weights + self.frozen + self.activations + self.gradients

    @property
    def total(self) -> float:
        """Bytes on the device."""
        parts = (getattr(self, f.name) for f in fields(self) if f.name not in ("moment", "host"))
        return float(sum(parts))


def memory_at(stage: int, config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """What a rank holds at a ZeRO stage, at the moment when that is most."""
    return max(moments_at(stage, config, work, ranks), key=lambda memory: memory.total)


def moments_at(
    stage: int, config: TrainConfig, work: Workload, ranks: int
) -> tuple[Memory, Memory, Memory]:
    """What a rank holds while it encodes, in the backward pass, and when the optimizer steps."""
    zero = ZeroConfig(
        stage=stage,  # type: ignore[arg-type]
        offload_optimizer=config.zero.offload_optimizer and stage > 0,
        offload_weights=config.zero.offload_weights and stage == 3,
    )
    config = replace(config, zero=zero)
    held = _held(config, work, ranks)
    return (
        _encoding(held, config, work, ranks),
        _backward(held, config, work, ranks),
        _step(held, config, work, ranks),
    )


def _held(config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """What is there all the time."""
    stage, size = config.zero.stage, bytes_per_element(config)
    weights = size * (work.trained + work.base) / (ranks if stage == 3 else 1)
    part = work.trained / (ranks if stage else 1)
    moments = 2 if config.optim.eight_bit else 8
    masters = 0 if stage == 0 and config.precision == "fp32" else 4
    optimizer = part * (masters + moments)
    ema = 4 * work.trained / ranks if config.ema else 0.0
    host = 0.0
    if config.zero.offload_optimizer:  # and the gradients that it steps on
        host, optimizer, ema = optimizer + ema + 4 * part, 0.0, 0.0
    if config.zero.offload_weights:
        host, weights = host + weights, 0.0
    return Memory(
        moment="",
        weights=weights,
        optimizer=optimizer,
        ema=ema,
        frozen=size * work.frozen + work.judges.weights,
        # Stage 3 keeps its part of them from step to step, and its bucket.
        gradients=size * part if stage == 3 and not config.zero.offload_optimizer else 0.0,
        buffers=size * _bucket(config) if stage == 3 else 0.0,
        host=host,
    )


def _encoding(held: Memory, config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """Pictures become latents: no gradients, but the most pixels."""
    pictures = split_batch(config, ranks).micro_batch
    elements = pictures * work.encoding
    return replace(held, moment="encoding", activations=bytes_per_element(config) * elements)


def _backward(held: Memory, config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """From the last block to the first activations go and gradients come."""
    stage, size = config.zero.stage, bytes_per_element(config)
    pictures, accumulation = split_batch(config, ranks)
    # From stage 2 on a rank keeps its part of the gradients, and what is not reduced yet.
    part = size / ranks if stage >= 2 else size
    reached = held.gradients
    if accumulation > 1 and stage < 3:
        reached += part * work.trained  # of the passes before
    growing = 0.0 if stage == 3 or (accumulation > 1 and stage < 2) else part
    ahead = sum(call.stays for call in work.calls if not call.again) * size * pictures
    worst = (ahead + _on_top(work, size, pictures), reached)
    for call in reversed(work.calls):
        row = call.rows * size * pictures
        ahead += call.stays * size * pictures if call.again else 0
        for kept, trained in reversed(call.passes):
            worst = max(worst, (ahead + kept.again * row, reached), key=sum)
            ahead -= kept.stays * row
            reached += growing * trained
    worst = max(worst, (ahead, reached), key=sum)
    return replace(
        held,
        moment="backward pass",
        activations=worst[0],
        gradients=worst[1],
        buffers=held.buffers + size * _communication(config, work),
    )


def _on_top(work: Workload, size: int, pictures: int) -> float:
    """Bytes of what looks at the answer, before the gradient arrives there."""
    if work.decoding is None:
        return work.judges.kept * pictures
    piece = min(pictures, work.decoding.pictures)
    return max(work.judges.kept * pictures, size * piece * work.decoding.kept)


def _communication(config: TrainConfig, work: Workload) -> float:
    """Elements of what ranks send each other in the backward pass."""
    stage, trained = config.zero.stage, work.trained
    if stage == 0:
        return min(trained, REDUCE_ELEMENTS)  # flattened to be averaged
    if stage < 3:  # the bucket, and gradients that wait for it
        return _bucket(config) + min(trained, _bucket(config))
    whole = trained + work.base
    settings = config.deepspeed.get("zero_optimization", {})
    live = min(whole, settings.get("stage3_max_live_parameters", LIVE_ELEMENTS))
    prefetch = settings.get("stage3_prefetch_bucket_size", PREFETCH_ELEMENTS)
    return float(live + min(whole, prefetch))


def _step(held: Memory, config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """Gradients become fp32, and AdamW steps; only its fused kernel needs nothing else."""
    stage, size = config.zero.stage, bytes_per_element(config)
    part = work.trained / (ranks if stage else 1)
    if config.zero.offload_optimizer:
        return replace(held, moment="optimizer step", gradients=size * part)
    fused = config.device == "cuda"
    gradients = held.gradients if stage == 3 else size * part
    copies = 0.0 if stage == 0 and config.precision == "fp32" else 4 * part
    if stage in (1, 2) and fused:
        copies += size * part  # once more, flattened
    elif stage and not fused:
        copies += 8 * part  # AdamW's intermediate results, over all that it steps on
        gradients = held.gradients
    return replace(
        held, moment="optimizer step", gradients=gradients, buffers=held.buffers + copies
    )


def _bucket(config: TrainConfig) -> float:
    settings = config.deepspeed.get("zero_optimization", {})
    return float(settings.get("reduce_bucket_size", BUCKET_ELEMENTS))
