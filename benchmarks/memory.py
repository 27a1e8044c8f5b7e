"""python -m benchmarks.memory: what a rank holds at each ZeRO stage, beside what plan says.

On GPUs, Stable Diffusion 1.5's shape at 512 pixels, a rank on each: torch.cuda's
max_memory_allocated over an optimizer step. On a CPU, two ranks over gloo and a UNet of 39 million
weights: the bytes of all tensors that a rank holds between two steps, plus by how much torch's
allocator goes above that within the next step, by its own profiler. Libraries' scratch space that
does not go through torch's allocator is in neither.

Random weights; nothing is downloaded.
"""

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import machine
from benchmarks.models import write_model
from benchmarks.ranks import on_ranks, start_training, train_config
from launcher.plan.memory import STAGES
from launcher.plan.model import open_model
from launcher.plan.plan import stage_memories
from trainer import distributed
from trainer.config import TrainConfig
from trainer.data.config import DataConfig

HERE = Path(__file__).parent
WITHIN = 0.15
ON_GPU = {"model": "sd15", "resolution": 512, "precision": "bf16", "micro_batch": 4}
# In bf16 a convolution's backward pass takes a CPU minutes. The buckets are to the weights what
# they are in Stable Diffusion 1.5.
BUCKETS = {"reduce_bucket_size": 4_500_000, "stage3_prefetch_bucket_size": 4_000_000}
ON_CPU = {"model": "small", "resolution": 128, "precision": "fp32", "micro_batch": 2}
VARIANTS: tuple[tuple[str, dict[str, Any], tuple[int, ...]], ...] = (
    ("full", {"ema": {}}, STAGES),
    ("full, gradient checkpointing", {"speed": {"gradient_checkpointing": True}}, (2,)),
    ("lora", {"unet": "lora"}, (0, 2)),
)


def main() -> None:
    """Measure every variant, print a table, and write it beside this file."""
    measured_on = machine()
    gpus = torch.cuda.device_count()
    settings = ON_GPU if gpus else ON_CPU
    ranks = gpus or 2
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(settings["model"], Path(folder), "cuda" if gpus else "cpu")
        for name, changes, stages in VARIANTS:
            for stage in stages:
                case = _case(settings, folder, {**changes, "zero": {"stage": stage}}, ranks)
                rows.append(measure(name, stage, case, ranks))
                print(
                    "{variant}, ZeRO {stage}: {gib} GiB, plan says {planned_gib}".format(**rows[-1])
                )
    worst = max(rows, key=lambda row: abs(row["planned_to_measured"] - 1))
    error = abs(worst["planned_to_measured"] - 1)
    report = {
        "command": "python -m benchmarks.memory",
        "unit": "GiB of tensors on a rank at the worst moment of a step, the most of all ranks",
        "measured_by": "torch.cuda.max_memory_allocated" if gpus else "tensors and torch.profiler",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "deepspeed", "diffusers")},
        "settings": {**settings, "ranks": ranks},
        "cases": rows,
        "targets": [
            {
                "target": f"plan within {WITHIN:.0%} of what is measured",
                "measured": round(error, 3),
                "met": error <= WITHIN,
                "reason": f"the worst is {worst['variant']} at stage {worst['stage']}",
            }
        ],
    }
    path = HERE / "results" / f"memory-{'gpu' if gpus else 'cpu'}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"plan is off by {error:.1%} at worst; wrote {path}")


def measure(variant: str, stage: int, case: dict[str, Any], ranks: int) -> dict[str, Any]:
    """One variant at one stage, on ranks of its own."""
    measured = [rank["bytes"] for rank in on_ranks("benchmarks.memory", case, ranks)]
    planned = planned_bytes(train_config(case["train"]), case["resolution"], ranks, stage)
    return {
        "variant": variant,
        "stage": stage,
        "gib": round(max(measured) / 2**30, 3),
        "planned_gib": round(planned / 2**30, 3),
        "planned_to_measured": round(planned / max(measured), 3),
    }


def planned_bytes(config: TrainConfig, resolution: int, ranks: int, stage: int) -> float:
    """What `letterpress plan` says of the same."""
    config = replace(config, data=DataConfig(path=Path(), resolution=resolution))
    return stage_memories(config, open_model(config), ranks)[stage].total


def measure_rank(case: dict[str, Any]) -> int:
    """Bytes of this rank's tensors at the worst moment of its third step."""
    torch.set_num_threads(1)
    training = start_training(train_config(case["train"]), case["resolution"])
    for _ in range(2):
        training.step()
    most = most_held(training.step, on_gpu=training.world.device.type == "cuda")
    distributed.finish()
    return most


def most_held(step: Callable[[], object], *, on_gpu: bool) -> int:
    """Bytes of tensors at the worst moment of `step`."""
    if not on_gpu:
        return _bytes_held() + most_above(step)
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def most_above(step: Callable[[], object]) -> int:
    """By how many bytes torch's allocator on the CPU goes above where it stood before `step`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    above = most = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        above += event["args"]["Bytes"]
        most = max(most, above)
    return most


def _bytes_held() -> int:
    """Of all tensors that there are, gradients included; memory that two share counts once."""
    gc.collect()
    sizes: dict[int, int] = {}
    for tensor in [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]:
        for held in (tensor, tensor.grad if tensor.is_leaf else None):
            if held is not None and held.layout == torch.strided:
                storage = held.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _case(
    settings: dict[str, Any], folder: str, changes: dict[str, Any], ranks: int
) -> dict[str, Any]:
    on_gpu = settings is ON_GPU
    train = {
        "model": folder,
        "device": "cuda" if on_gpu else "cpu",
        "precision": settings["precision"],
        "micro_batch": settings["micro_batch"],
        "global_batch": settings["micro_batch"] * ranks,
        "deepspeed": {} if on_gpu else {"zero_optimization": BUCKETS},
        **changes,
    }
    return {"train": train, "resolution": settings["resolution"]}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        case, out = sys.argv[1:]
        Path(out).write_text(json.dumps({"bytes": measure_rank(json.loads(case))}))
    else:
        main()
