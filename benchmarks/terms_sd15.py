"""python -m benchmarks.terms_sd15: what each term takes of Stable Diffusion 1.5, without a GPU.

At 512 pixels and the batches of the published runs, in bf16, by the trainer's own steps on tensors
without data (benchmarks/without_data.py), beside what plan says of the same: networks, activations
and gradients at the worst moment of a forward and a backward pass, and operations. DeepSpeed and
the optimizer are not run; what they hold besides is plan's, which benchmarks/memory.py measures.

Rewards sample one step more than the gradient passes through: those before it hold nothing that
stays. The operations of all others are plan's.
Nothing is downloaded but the recogniser that rapidocr carries.
"""

import json
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.models import new_networks
from benchmarks.ranks import train_config
from benchmarks.terms import GRAD_STEPS, Case, reward, target, write_segmenter
from benchmarks.without_data import track
from launcher.plan.memory import moments_at
from launcher.plan.model import Model, work_of
from launcher.plan.plan import needed_gib, stage_memories
from launcher.plan.speed import picture_flop
from launcher.plan.terms import LINES
from trainer.config import TrainConfig
from trainer.data.config import DataConfig

HERE = Path(__file__).parent
SHAPE, RESOLUTION = "sd15", 512
CHECKPOINTING: Case = {"speed": {"gradient_checkpointing": True}}


def main() -> None:
    """Track every run, print a table, and write it beside this file."""
    measured_on = machine()
    with tempfile.TemporaryDirectory() as folder:
        segmenter = write_segmenter(Path(folder))
        rows = [row for name, case in published_keys(segmenter).items() for row in both(name, case)]
    report = {
        "command": "python -m benchmarks.terms_sd15",
        "unit": "GiB of networks, activations and gradients on a rank at the worst moment of a "
        "step; 1e12 operations for a picture",
        "measured_by": "the trainer's steps on tensors without data: benchmarks/without_data.py",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "settings": {"model": SHAPE, "resolution": RESOLUTION, "precision": "bf16", "lines": LINES},
        "runs": rows,
        "targets": [target(rows, "planned_to_tracked"), target(rows, "flop_planned_to_tracked")],
    }
    path = HERE / "results" / "terms-sd15.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print("\n".join(one["reason"] for one in report["targets"]), f"\nwrote {path}")


def published_keys(segmenter: Path) -> dict[str, tuple[int, Case, int]]:
    """The papers' and their code's settings, by name.

    Pictures on a GPU, the train section where it differs, and the sampler's steps.
    """
    characters = {"objective": {"characters": {"segmenter": str(segmenter)}}}
    found: dict[str, tuple[int, Case, int]] = {
        "TextDiffuser without its term": (24, {}, 0),
        "TextDiffuser: characters": (24, characters, 0),
        "AnyText without its term": (6, {}, 0),
        "AnyText: ocr": (6, {"objective": {"ocr": {}}}, 0),
    }
    for checkpoint in (True, False):
        again = "" if checkpoint else ", nothing computed again"
        for steps in GRAD_STEPS:
            encoder = {"unet": "frozen", "text_encoder": "full"}
            tuned: Case = {"reward": reward(steps, checkpoint, RESOLUTION)}
            found[f"TextCraftor: reward, K = {steps}{again}"] = (4, {**encoder, **tuned}, 25)
        adapters: Case = {"unet": "lora", "reward": reward(1, checkpoint, RESOLUTION)}
        found[f"DRaFT: reward, K = 1{again}"] = (4, adapters, 50)
    return found


def both(name: str, run: tuple[int, Case, int]) -> list[dict[str, Any]]:
    """A run without and with gradient checkpointing, beside plan; rewards have their own."""
    pictures, keys, sampler_steps = run
    rows = []
    for checkpointing in (False,) if "reward" in keys else (False, True):
        config = config_of({**keys, **(CHECKPOINTING if checkpointing else {})}, pictures)
        row = {"run": name, "pictures_on_a_gpu": pictures, "gradient_checkpointing": checkpointing}
        rows.append(row | beside_plan(config, sampler_steps))
        print(show(rows[-1]), flush=True)
    return rows


def config_of(keys: Case, pictures: int, precision: str = "bf16") -> TrainConfig:
    """The train section of a run on one GPU; of rewards, one step before the learnt ones."""
    if tuned := keys.get("reward"):
        keys = {**keys, "reward": {**tuned, "sampler_steps": 1 + tuned["grad_steps"]}}
    batch = {"global_batch": pictures, "micro_batch": pictures, "zero": {"stage": 0}}
    kind = {"model": SHAPE, "device": "cpu", "precision": precision}
    config = train_config({**kind, **batch, **keys})
    resolution = None if config.reward else RESOLUTION
    return replace(config, data=DataConfig(path=Path(), resolution=resolution))


def beside_plan(config: TrainConfig, sampler_steps: int) -> dict[str, Any]:
    """What is tracked of a step and what plan says of it, and of the run with all its steps."""
    model, pictures = planned_model(), config.micro_batch or 1
    tracked = track(config, SHAPE, RESOLUTION)
    moments = moments_at(0, config, work_of(config, model), 1)[:2]  # without the optimizer's
    planned = max(memory.computed_with for memory in moments)
    planned_flop = pictures * sum(picture_flop(config, model).values())
    whole = replace(config, device="cuda")
    if config.reward:
        whole = replace(whole, reward=replace(config.reward, sampler_steps=sampler_steps))
    flop = sum(picture_flop(whole, model).values())
    least = min(needed_gib(memory) for memory in stage_memories(whole, model, 1))
    return {
        "gib": round(tracked.most / 2**30, 2),
        "planned_gib": round(planned / 2**30, 2),
        "planned_to_tracked": round(planned / tracked.most, 3),
        "flop_planned_to_tracked": round(planned_flop / tracked.flop, 3),
        "tflop_per_picture": round((flop + (tracked.flop - planned_flop) / pictures) / 1e12, 2),
        "planned_gib_of_a_gpu": round(least, 1),
    }


def planned_model() -> Model:
    """The shape as plan sees it."""
    with torch.device("meta"):
        networks = {
            name: {key: tuple(weight.shape) for key, weight in network.state_dict().items()}
            for name, network in new_networks(SHAPE).items()
        }
    return Model(networks=networks, height=RESOLUTION, width=RESOLUTION, size_from="")


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    name = row["run"] + (", checkpointed" if row["gradient_checkpointing"] else "")
    return (
        f"{name:62} {row['pictures_on_a_gpu']:2}  {row['gib']:6.2f} GiB  plan "
        f"{row['planned_gib']:6.2f} ({row['planned_to_tracked']:.2f})  "
        f"{row['tflop_per_picture']:6.2f} TFLOP ({row['flop_planned_to_tracked']:.2f})"
    )


if __name__ == "__main__":
    main()
