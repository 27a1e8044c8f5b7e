"""What a recipe takes: memory at each ZeRO stage, hours, checkpoints; before a GPU is asked for.

Nothing is measured here. What is assumed is said on the page.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod, sqrt

from cluster.table import align
from launcher.blocks import below, blocks_of, text_encoder_flop
from launcher.headers import Shapes, find_folder, network_shapes
from launcher.memory import STAGES, Memory, memory_at
from launcher.recipe import Recipe, check_ranks
from launcher.rewards import mean_calls, rows_of
from launcher.workload import Workload, caption_tokens, latent_scale, unet_blocks, workload_of
from trainer.config import TrainConfig, ZeroConfig, split_batch

GIB = 2**30
# Beside the tensors: CUDA's context, the libraries' workspaces, NCCL; and what the allocator loses.
OUTSIDE_GIB = 1.5
ALLOCATOR_LOSS = 1.05
# TFLOP/s in bf16 without sparsity, by NVIDIA's data sheets. TF32, for fp32, is half of it.
PEAK_TFLOPS = {"A100": 312, "H100 or H200": 989}
# Of that peak. What MosaicML reached with Stable Diffusion 2 at 512 pixels on A100s (2023).
MFU = 0.28
# In a thousand days of a node of 8 GPUs: 419 in 54 days of 2048 nodes, as the report on Llama 3
# counts them (arXiv 2407.21783).
FAILURES = 3.8
COPY_GB_PER_S = 10  # from a GPU to host memory, for which the steps wait
# Forward passes that a forward and a backward pass take, by what learns.
TIMES = {"full": 3, "lora": 2, "frozen": 1}


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What there is to run on."""

    nodes: int
    gpus_per_node: int
    gpu_memory_gb: float | None
    """GiB of one GPU; null: unknown."""

    @property
    def ranks(self) -> int:
        """One for each GPU."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's networks and the pictures that it is trained on."""

    networks: Mapping[str, Shapes]
    height: int
    width: int
    size_from: str
    """Where the size of the pictures was found."""


def plan(recipe: Recipe, machines: Machines, images_per_s: float | None) -> str:
    """The page; ValueError if the model is not there, or the batch cannot be split."""
    ranks = replace(recipe.ranks, nodes=machines.nodes, per_node=machines.gpus_per_node)
    recipe = replace(recipe, ranks=ranks)
    check_ranks(recipe)
    config, model = recipe.train, open_model(recipe.train)
    memories = stage_memories(config, model, machines.ranks)
    lines = [
        *_head(recipe.name, config, model, machines),
        "",
        *memory_table(memories, config),
        "",
        *_verdict(config, model, machines, memories),
        *(f"        {line}" for line in _work(config, model).judges.assumed),
        *_time(config, model, machines, images_per_s),
        *_checkpoints(config, model, machines, images_per_s),
    ]
    return "\n".join(lines)


def open_model(config: TrainConfig) -> Model:
    """The shapes of the recipe's model, and the size of the pictures that it will see."""
    networks = network_shapes(config.model)
    data, own = config.data, _own_size(config.model) * latent_scale(networks)
    if config.reward:
        size, where = (config.reward.height, config.reward.width), "train.reward"
    elif data.resolution:
        size, where = (data.resolution, data.resolution), "train.data.resolution"
    elif data.words:
        size, where = (data.words.height, data.words.width), "train.data.words"
    else:
        size, where = (own, own), "the model's own; train.data.resolution is not set"
    return Model(networks=networks, height=size[0], width=size[1], size_from=where)


def stage_memories(config: TrainConfig, model: Model, ranks: int) -> list[Memory]:
    """What a rank needs at each stage."""
    work = _work(config, model)
    return [memory_at(stage, config, work, ranks) for stage in STAGES]


def needed_gib(memory: Memory) -> float:
    """Of a GPU, to hold these tensors."""
    return memory.total * ALLOCATOR_LOSS / GIB + OUTSIDE_GIB


def memory_table(memories: list[Memory], config: TrainConfig) -> list[str]:
    """A line for each kind of tensor, a column for each stage."""
    rows = [["GiB per rank", *(f"ZeRO {stage}" for stage in STAGES)]]
    titles = {
        "weights": "weights",
        "optimizer": "masters and moments",
        "ema": "running average",
        "frozen": "frozen networks",
        "gradients": "gradients",
        "activations": "activations",
        "buffers": "buffers and copies",
        "total": "at most",
        "host": "in host memory",
    }
    for name, title in titles.items():
        values = [getattr(memory, name) for memory in memories]
        if any(values):
            rows.append([title, *(f"{value / GIB:.2f}" for value in values)])
    rows.append(["which is in the", *(memory.moment for memory in memories)])
    return align(rows)


def recommended_stage(config: TrainConfig, ranks: int, fitting: list[int]) -> int:
    """The stage to take of those that fit.

    Alone, or with adapters, there is little to split: the first. To train every weight, 2: it sends
    as much as 0 and keeps least but for 3, which sends half as much again.
    """
    if ranks > 1 and "full" in (config.unet, config.text_encoder) and 2 in fitting:
        return 2
    return min(fitting)


def picture_flop(config: TrainConfig, model: Model) -> dict[str, float]:
    """Operations for one picture: in the networks that learn, to encode it, and to judge it.

    The backward pass takes twice the forward pass, once where the weights are frozen; gradient
    checkpointing takes the forward pass again (but for its few layers that are not repeated). With
    a cache, nothing is encoded while training. Rewards encode captions alone.
    """
    again = config.speed.gradient_checkpointing
    height, width, tokens = model.height, model.width, caption_tokens(model.networks)
    encoder = blocks_of(below(model.networks["vae"], "encoder."), height, width)
    train = _unet_flop(config, model)
    encode = 0.0 if config.reward else float(sum(block.flop for block in encoder))
    for name, shapes in model.networks.items():
        if name.startswith("text_encoder"):
            flop, learns = text_encoder_flop(shapes, tokens), config.how(name) != "frozen"
            train += flop * (TIMES[config.how(name)] + again) if learns else 0
            encode += 0 if learns and not config.reward else flop
    work = _work(config, model)
    judge = work.judges.flop + (work.decoding.flop if work.decoding else 0)
    return {"train": train, "encode": 0.0 if config.data.cache else encode, "judge": judge}


def _unet_flop(config: TrainConfig, model: Model) -> float:
    unet = sum(block.flop for block in unet_blocks(model.networks, model.height, model.width))
    learnt = max(TIMES[config.unet], 2) + config.speed.gradient_checkpointing
    again = config.reward is not None and config.reward.checkpoint
    calls, through = mean_calls(config)
    return unet * rows_of(config) * (calls + through * (learnt + again))


def seconds_per_step(
    config: TrainConfig, model: Model, ranks: int, peak_tflops: float, mfu: float = MFU
) -> float:
    """At a share of a GPU's peak."""
    halved = 1 if config.precision == "bf16" else 2
    flop = sum(picture_flop(config, model).values()) * config.global_batch
    return flop * halved / (ranks * peak_tflops * 1e12 * mfu)


def checkpoint_bytes(config: TrainConfig, model: Model) -> tuple[float, float]:
    """Of a checkpoint, fp32 masters, moments and average; and of the export beside it."""
    work = _work(config, model)
    checkpoint = 4 * (4 if config.ema else 3) * work.trained
    if "full" not in (config.unet, config.text_encoder):
        return checkpoint, 4 * work.trained  # the adapters
    size = 2 if config.precision == "bf16" else 4
    return checkpoint, size * (work.trained + work.base + work.frozen)  # a whole diffusers folder


def save_interval_s(bytes_per_rank: float, nodes: int) -> float:
    """Seconds between two saves that lose least: sqrt(2 * cost * time between failures).

    Young 1974; Daly 2006 refines it where the two are near each other, which they are not here.
    The cost is what the steps wait for, the copy to host memory; writing goes on beside them.
    """
    cost_s = max(1.0, bytes_per_rank / (COPY_GB_PER_S * 1e9))
    between_failures_s = 1000 * 24 * 3600 / (FAILURES * nodes)
    return sqrt(2 * cost_s * between_failures_s)


def _work(config: TrainConfig, model: Model) -> Workload:
    return workload_of(config, model.networks, model.height, model.width)


def _head(name: str, config: TrainConfig, model: Model, machines: Machines) -> Iterator[str]:
    work = _work(config, model)
    numel = sum(prod(shape) for shapes in model.networks.values() for shape in shapes.values())
    split = split_batch(config, machines.ranks)
    yield (
        f"{name}: {work.trained / 1e6:,.1f} M weights learn, of a model of {numel / 1e6:,.1f} M; "
        f"{config.precision}, {machines.nodes} x {machines.gpus_per_node} ranks"
    )
    yield (
        f"a step: {config.global_batch} pictures, {split.micro_batch} at a time on a rank, "
        f"{split.accumulation} times; {model.width} x {model.height} pixels ({model.size_from})"
    )


def _verdict(
    config: TrainConfig, model: Model, machines: Machines, memories: list[Memory]
) -> Iterator[str]:
    if config.device == "cpu":
        yield "memory: of the host, beside what Python and its libraries take"
        return
    needed = [needed_gib(memory) for memory in memories]
    yield (
        f"memory: {', '.join(f'{gib:.1f}' for gib in needed)} GiB of a GPU at stages 0 to 3, with "
        f"{OUTSIDE_GIB} for CUDA and {ALLOCATOR_LOSS - 1:.0%} lost by the allocator"
    )
    limit = machines.gpu_memory_gb
    fitting = [stage for stage, gib in enumerate(needed) if limit and gib <= limit]
    if limit is None:
        yield "        --gpu-memory-gb tells whether that fits"
    elif fitting:
        stage = recommended_stage(config, machines.ranks, fitting)
        fits = "fits" if config.zero.stage in fitting else "does not fit"
        yield (
            f"        {limit:g} GiB: train.zero.stage {config.zero.stage} {fits}; of "
            f"{', '.join(map(str, fitting))}, which do, take {stage}"
        )
    else:
        change = _change_that_fits(config, model, machines.ranks, limit)
        advice = f"it would with --set {change}" if change else "nor with all savings there are"
        yield f"        {limit:g} GiB: does not fit at any stage; {advice}"


def _change_that_fits(
    config: TrainConfig, model: Model, ranks: int, limit_gib: float
) -> str | None:
    """The first of ever more savings that fits: recompute, one picture at a time, offload."""
    lean = replace(config, speed=replace(config.speed, gradient_checkpointing=True))
    single = replace(lean, micro_batch=1)
    saved = "train.speed.gradient_checkpointing=true"
    changes = {
        saved: lean,
        f"{saved} train.micro_batch=1": single,
        f"{saved} train.micro_batch=1 train.zero.offload_optimizer=true": replace(
            single, zero=ZeroConfig(stage=2, offload_optimizer=True)
        ),
        f"{saved} train.micro_batch=1 train.zero.stage=3 train.zero.offload_optimizer=true "
        "train.zero.offload_weights=true": replace(
            single, zero=ZeroConfig(stage=3, offload_optimizer=True, offload_weights=True)
        ),
    }
    for change, changed in changes.items():
        for stage, memory in enumerate(stage_memories(changed, model, ranks)):
            if needed_gib(memory) <= limit_gib:
                stage_too = "" if "zero.stage" in change else f" train.zero.stage={stage}"
                return change + stage_too
    return None


def _time(
    config: TrainConfig, model: Model, machines: Machines, images_per_s: float | None
) -> Iterator[str]:
    flop, pictures = picture_flop(config, model), config.steps * config.global_batch
    judged = f", {flop['judge'] / 1e12:.3g} to judge it" if flop["judge"] else ""
    yield (
        f"time:   {flop['train'] / 1e12:.3g} TFLOP to learn a picture and "
        f"{flop['encode'] / 1e12:.3g} to encode it{judged}, {pictures:,} pictures in "
        f"{config.steps:,} steps"
    )
    if images_per_s is not None:
        hours = pictures / (images_per_s * machines.ranks) / 3600
        yield f"        {_hours(hours)} at {images_per_s:g} pictures/s on a GPU, as you say"
    elif config.device == "cpu":
        yield "        unknown on a CPU: --images-per-s says what one rank does"
    else:
        for gpu, peak in PEAK_TFLOPS.items():
            seconds = seconds_per_step(config, model, machines.ranks, peak)
            yield (
                f"        {_hours(seconds * config.steps / 3600)} on {gpu}, assuming {MFU:.0%} of "
                f"{peak / (1 if config.precision == 'bf16' else 2):g} TFLOP/s"
            )


def _checkpoints(
    config: TrainConfig, model: Model, machines: Machines, images_per_s: float | None
) -> Iterator[str]:
    size, export = checkpoint_bytes(config, model)
    saves = -(-config.steps // config.save_every)
    yield (
        f"saves:  {_size(size)} for a checkpoint and {_size(export)} for its export, {saves} times "
        f"in the run (train.save_every {config.save_every})"
    )
    interval_s = save_interval_s(size / machines.ranks, machines.nodes)
    if images_per_s is not None:
        step_s = config.global_batch / (images_per_s * machines.ranks)
    elif config.device == "cuda":
        step_s = seconds_per_step(config, model, machines.ranks, PEAK_TFLOPS["A100"])
    else:
        step_s = 0.0
    steps = f", {max(1, round(interval_s / step_s)):,} steps" if step_s else ""
    yield (
        f"        least is lost by a save every {_hours(interval_s / 3600)}{steps} (Young 1974), "
        f"assuming {FAILURES} failures in 1000 node days and a copy to "
        f"host memory at {COPY_GB_PER_S} GB/s; more often where jobs are preempted"
    )


def _own_size(model: str) -> int:
    config = json.loads((find_folder(model) / "unet" / "config.json").read_text())
    size = config["sample_size"]
    return int(max(size) if isinstance(size, list) else size)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
