"""How much memory a rank needs at each ZeRO stage, from the recipe and the shapes of the weights.

Counted as what DeepSpeed 0.19 and autograd hold at the worst of three moments of a step: while
pictures are encoded, in the backward pass, and when the optimizer steps. benchmarks/memory.py
measures the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import prod

from launcher.blocks import Block, Kept, below, blocks_of, text_encoder_kept
from launcher.headers import Shapes
from trainer.config import LoraConfig, TrainConfig, ZeroConfig, split_batch

STAGES = (0, 1, 2, 3)
# Elements per communication, unless train.deepspeed says otherwise: trainer/engine.py gives the
# first two, DeepSpeed itself the others.
BUCKET_ELEMENTS = 100_000_000
PREFETCH_ELEMENTS = 90_000_000
LIVE_ELEMENTS = 1_000_000_000
REDUCE_ELEMENTS = 500_000_000
ENCODER_TENSORS = 3  # of a block's width: its input, a normalization's answer, a SiLU's


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
    def total(self) -> float:
        """Bytes on the device."""
        parts = (getattr(self, f.name) for f in fields(self) if f.name not in ("moment", "host"))
        return float(sum(parts))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a step has to compute with: counted in elements, not bytes."""

    trained: int
    """Weights that learn: of adapters, theirs."""
    base: int
    """Frozen weights of networks that have adapters."""
    frozen: int
    """Weights of networks that are only used."""
    passes: tuple[tuple[Kept, int], ...]
    """What a picture leaves of each block, and how many trained weights the block has; in order."""
    encoding: int
    """What the autoencoder holds at once for a picture."""


def workload_of(
    config: TrainConfig, networks: Mapping[str, Shapes], height: int, width: int
) -> Workload:
    """Count what `config` makes of a model's networks, with pictures of so many pixels."""
    frozen = trained = base = 0
    for name, shapes in networks.items():
        how = config.how(name)
        numel = sum(map(prod, shapes.values()))
        frozen += numel if how == "frozen" else 0
        base += numel if how == "lora" else 0
        trained += trained_numel(config, name, shapes)
    encoder = blocks_of(below(networks["vae"], "encoder."), height, width)
    widest = max(block.positions * _widest(block) for block in encoder)
    return Workload(
        trained=trained,
        base=base,
        frozen=frozen,
        passes=tuple(_passes(config, networks, height, width)),
        encoding=0 if config.data.cache else ENCODER_TENSORS * widest,
    )


def trained_numel(config: TrainConfig, name: str, shapes: Shapes) -> int:
    """How many weights of a network learn; of adapters, theirs."""
    if config.how(name) == "full":
        return sum(map(prod, shapes.values()))
    if config.how(name) == "frozen":
        return 0
    rank = (config.lora or LoraConfig()).rank
    layers = [shape for weight, shape in shapes.items() if learns(config, name, weight)]
    return sum(rank * (shape[0] + prod(shape[1:])) for shape in layers if len(shape) > 1)


def learns(config: TrainConfig, name: str, weight: str) -> bool:
    """Whether a network's weight is trained or has an adapter."""
    if config.how(name) != "lora":
        return config.how(name) == "full"
    lora = config.lora or LoraConfig()
    targets = lora.target_modules if name == "unet" else lora.text_encoder_target_modules
    layer = weight.removesuffix(".weight")
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def latent_scale(networks: Mapping[str, Shapes]) -> int:
    """Pixels per latent, each way."""
    halvings = {n.split(".")[2] for n in networks["vae"] if n.startswith("encoder.down_blocks.")}
    return int(2 ** (len(halvings) - 1))


def caption_tokens(networks: Mapping[str, Shapes]) -> int:
    """Tokens of a caption."""
    tables = [shape for n, shape in networks["text_encoder"].items() if "position_embedding" in n]
    return tables[0][0]


def unet_blocks(networks: Mapping[str, Shapes], height: int, width: int) -> list[Block]:
    """The UNet's blocks for pictures of so many pixels."""
    scale = latent_scale(networks)
    return blocks_of(networks["unet"], height // scale, width // scale, caption_tokens(networks))


def memory_at(stage: int, config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """What a rank holds at a ZeRO stage, at the moment when that is most."""
    zero = ZeroConfig(
        stage=stage,  # type: ignore[arg-type]
        offload_optimizer=config.zero.offload_optimizer and stage > 0,
        offload_weights=config.zero.offload_weights and stage == 3,
    )
    config = replace(config, zero=zero)
    held = _held(config, work, ranks)
    moments = (_encoding(held, config, work, ranks), _backward(held, config, work, ranks))
    return max(*moments, _step(held, config, work, ranks), key=lambda memory: memory.total)


def _held(config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """What is there all the time."""
    stage, size = config.zero.stage, _bytes_per_element(config)
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
        frozen=size * work.frozen,
        # Stage 3 keeps its part of them from step to step, and its bucket.
        gradients=size * part if stage == 3 and not config.zero.offload_optimizer else 0.0,
        buffers=size * _bucket(config) if stage == 3 else 0.0,
        host=host,
    )


def _encoding(held: Memory, config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """Pictures become latents: no gradients, but the most pixels."""
    pictures = split_batch(config, ranks).micro_batch
    elements = pictures * work.encoding
    return replace(held, moment="encoding", activations=_bytes_per_element(config) * elements)


def _backward(held: Memory, config: TrainConfig, work: Workload, ranks: int) -> Memory:
    """From the last block to the first activations go and gradients come."""
    stage, size = config.zero.stage, _bytes_per_element(config)
    pictures, accumulation = split_batch(config, ranks)
    # From stage 2 on a rank keeps its part of the gradients, and what is not reduced yet.
    part = size / ranks if stage >= 2 else size
    reached = held.gradients
    if accumulation > 1 and stage < 3:
        reached += part * work.trained  # of the passes before
    growing = 0.0 if stage == 3 or (accumulation > 1 and stage < 2) else part
    ahead = sum(kept.stays for kept, _ in work.passes) * size * pictures
    worst = (ahead, reached)
    for kept, trained in reversed(work.passes):
        worst = max(worst, (ahead + kept.again * size * pictures, reached), key=sum)
        ahead -= kept.stays * size * pictures
        reached += growing * trained
    worst = max(worst, (ahead, reached), key=sum)
    return replace(
        held,
        moment="backward pass",
        activations=worst[0],
        gradients=worst[1],
        buffers=held.buffers + size * _communication(config, work),
    )


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
    stage, size = config.zero.stage, _bytes_per_element(config)
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


def _passes(
    config: TrainConfig, networks: Mapping[str, Shapes], height: int, width: int
) -> Iterator[tuple[Kept, int]]:
    checkpointing = config.speed.gradient_checkpointing
    for name, shapes in networks.items():
        if name.startswith("text_encoder") and config.how(name) != "frozen":
            kept = text_encoder_kept(shapes, caption_tokens(networks), checkpointing=checkpointing)
            yield kept, trained_numel(config, name, shapes)
    for block in unet_blocks(networks, height, width):
        kept = block.kept(
            lambda layer: learns(config, "unet", f"{layer}.weight"), checkpointing=checkpointing
        )
        yield kept, trained_numel(config, "unet", block.weights)


def _bytes_per_element(config: TrainConfig) -> int:
    return 2 if config.precision == "bf16" else 4


def _bucket(config: TrainConfig) -> float:
    settings = config.deepspeed.get("zero_optimization", {})
    return float(settings.get("reduce_bucket_size", BUCKET_ELEMENTS))


def _widest(block: Block) -> int:
    return max(shape[0] for shape in block.weights.values())
