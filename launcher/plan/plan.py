"""What a recipe takes: memory at each ZeRO stage, hours, checkpoints; before a GPU is asked for.

Nothing is measured here. What is assumed is said on the page.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from cluster.table import align
from launcher.plan.hours import Asked, hours_lines
from launcher.plan.memory import STAGES, Memory, memory_at
from launcher.plan.model import Model, open_model, work_of
from launcher.plan.speed import Machines
from launcher.recipe import Recipe, check_ranks
from trainer.config import TrainConfig, ZeroConfig, split_batch

GIB = 2**30
# Beside the tensors: CUDA's context, the libraries' workspaces, NCCL; and what the allocator loses.
OUTSIDE_GIB = 1.5
ALLOCATOR_LOSS = 1.05


def plan(recipe: Recipe, machines: Machines, asked: Asked) -> str:
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
        *(f"        {line}" for line in work_of(config, model).judges.assumed),
        *hours_lines(config, model, machines, asked),
    ]
    return "\n".join(lines)


def stage_memories(config: TrainConfig, model: Model, ranks: int) -> list[Memory]:
    """What a rank needs at each stage."""
    work = work_of(config, model)
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


def _head(name: str, config: TrainConfig, model: Model, machines: Machines) -> Iterator[str]:
    work = work_of(config, model)
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
