"""python -m benchmarks.terms: what each term of the loss takes, and tuning by rewards, beside plan.

Memory is that of a rank's tensors at the worst moment of a step, as benchmarks/memory.py counts it;
time is of a whole step, for a picture. On a GPU, Stable Diffusion 1.5's shape at 512 pixels; on a
CPU, a tiny model at 128 pixels, in seconds of one core's time. Pictures show five lines that
the recogniser reads, as plan assumes. Beside it, what benchmarks/without_data.py tracks of the same
step; benchmarks/terms_sd15.py tracks Stable Diffusion 1.5 on any machine.

Random weights; nothing is downloaded but the recogniser that rapidocr carries.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.lines_of_text import batch_of_lines
from benchmarks.machine import machine
from benchmarks.memory import most_held
from benchmarks.models import write_model
from benchmarks.ranks import Training, on_ranks, start_training, train_config
from benchmarks.without_data import track
from launcher.plan.memory import moments_at
from launcher.plan.model import open_model, work_of
from launcher.plan.terms import LINES
from trainer import distributed
from trainer.data.config import DataConfig
from trainer.models.segmenter import Segmenter, save_segmenter
from trainer.objectives import ocr_loss
from trainer.segmenter.config import SegmenterConfig

HERE = Path(__file__).parent
WITHIN = 0.15
STEPS = 2
GRAD_STEPS = (1, 5, 10)
ON_GPU = {"model": "sd15", "resolution": 512, "precision": "bf16", "pictures": 4}
ON_CPU = {"model": "tiny", "resolution": 128, "precision": "fp32", "pictures": 2}
Case = dict[str, Any]


def main() -> None:
    """Measure every case, print a table, and write it beside this file."""
    measured_on = machine()
    on_gpu = torch.cuda.is_available()
    settings = ON_GPU if on_gpu else ON_CPU
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(settings["model"], Path(folder) / "model", "cuda" if on_gpu else "cpu")
        segmenter = write_segmenter(Path(folder))
        for name, keys in cases(segmenter, settings["resolution"]).items():
            rows.append({"case": name, **measure(name, keys, settings, Path(folder) / "model")})
            print(show(rows[-1]), flush=True)
    report = {
        "command": "python -m benchmarks.terms",
        "unit": "GiB of tensors on a rank at the worst moment of a step; seconds of a step for a "
        "picture, " + ("by the clock" if on_gpu else "of one core's time"),
        "measured_by": "torch.cuda.max_memory_allocated" if on_gpu else "tensors, torch.profiler",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "deepspeed", "diffusers")},
        "settings": {**settings, "lines": LINES},
        "cases": rows,
        "targets": [target(rows, f"{by}_to_measured") for by in ("planned", "tracked")],
    }
    path = HERE / "results" / f"terms-{'cuda' if on_gpu else 'cpu'}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(*(one["reason"] for one in report["targets"]), f"wrote {path}", sep="\n")


def cases(segmenter: Path, resolution: int) -> dict[str, Case]:
    """The train section of each case, where it differs from the others."""
    characters = {"characters": {"segmenter": str(segmenter)}}
    found: dict[str, Case] = {
        "denoising": {},
        "+ characters": {"objective": characters},
        "+ ocr": {"objective": {"ocr": {}}},
        "+ ocr, decoded once": {"objective": {"ocr": {}}},
    }
    for steps in GRAD_STEPS:
        for checkpoint in (True, False):
            name = f"reward, K = {steps}" + ("" if checkpoint else ", nothing computed again")
            found[name] = {"unet": "lora", "reward": reward(steps, checkpoint, resolution)}
    return found


def reward(steps: int, checkpoint: bool, resolution: int) -> Case:
    """DRaFT-K with the recogniser as its reward, which reads the picture as one line."""
    return {
        "rewards": {"ocr": 1.0},
        "line": "whole",
        "sampler_steps": max(GRAD_STEPS),
        "grad_steps": steps,
        "checkpoint": checkpoint,
        "height": resolution,
        "width": resolution,
    }


def write_segmenter(folder: Path) -> Path:
    """One of TextDiffuser's shape, with random weights."""
    torch.manual_seed(0)
    path = folder / "segmenter.safetensors"
    save_segmenter(Segmenter(4, SegmenterConfig.widths), path)
    return path


def measure(name: str, keys: Case, settings: Case, model: Path) -> dict[str, Any]:
    """A case in a process of its own, and what plan says of it."""
    train = {
        "model": str(model),
        "device": "cuda" if settings is ON_GPU else "cpu",
        "precision": settings["precision"],
        "global_batch": settings["pictures"],
        "micro_batch": settings["pictures"],
        "zero": {"stage": 0},
        **keys,
    }
    once = name.endswith("decoded once")
    case = {"train": train, "resolution": settings["resolution"], "decoded_once": once}
    (measured,) = on_ranks("benchmarks.terms", case, 1)
    resolution = None if "reward" in keys else settings["resolution"]
    config = replace(train_config(train), data=DataConfig(path=Path(), resolution=resolution))
    shown = {
        "gib": round(measured["bytes"] / 2**30, 3),
        "seconds_per_picture": round(measured["seconds"] / settings["pictures"], 3),
    }
    if once:
        return shown  # plan knows the trainer, which never does it
    _, backward, _ = moments = moments_at(0, config, work_of(config, open_model(config)), 1)
    planned = max(memory.total for memory in moments)
    found = track(config, settings["model"], settings["resolution"]).most
    # What DeepSpeed and the optimizer hold besides is not tracked, but plan's.
    tracked = max(found + backward.total - backward.computed_with, moments[-1].total)
    return shown | {
        "planned_gib": round(planned / 2**30, 3),
        "planned_to_measured": round(planned / measured["bytes"], 3),
        "tracked_gib": round(tracked / 2**30, 3),
        "tracked_to_measured": round(tracked / measured["bytes"], 3),
    }


def measure_rank(case: Case) -> dict[str, float]:
    """Bytes at the worst moment of a step, and seconds of one: the quickest of some."""
    torch.set_num_threads(1)
    if case["decoded_once"]:
        ocr_loss.decode = lambda family, latents: family.decode_latents(latents)
    config = train_config(case["train"])
    started = start_training(config, case["resolution"])
    batch = batch_of_lines(config.micro_batch or 1, case["resolution"], LINES)
    training = replace(started, batch=batch)
    on_gpu = config.device == "cuda"
    training.step()  # makes AdamW's moments
    check_that_lines_are_read(training)
    most = most_held(training.step, on_gpu=on_gpu)
    seconds = min(_timed(training, on_gpu) for _ in range(STEPS))
    distributed.finish()
    return {"bytes": float(most), "seconds": seconds}


def check_that_lines_are_read(training: Training) -> None:
    """RuntimeError if the term has nothing to do on these pictures, and would cost nothing."""
    if training.config.objective.ocr:
        counts = training.objective(training.learner.engine, training.batch, step=0).counts
        if unread := {why: count for why, count in counts.items() if count}:
            raise RuntimeError(f"the recogniser does not read what was drawn: {unread}")


def _timed(training: Training, on_gpu: bool) -> float:
    """Seconds of a step; on a CPU of the processor's time, whatever else it does."""
    clock = time.perf_counter if on_gpu else time.process_time
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    start = clock()
    training.step()
    wait()
    return clock() - start


def target(rows: list[dict[str, Any]], ratio: str) -> dict[str, Any]:
    """How far plan is off at worst, by this ratio of each row that has it."""
    planned = [row for row in rows if ratio in row]
    worst = max(planned, key=lambda row: abs(row[ratio] - 1))
    error = abs(worst[ratio] - 1)
    return {
        "target": f"{ratio} within {WITHIN:.0%}",
        "measured": round(error, 3),
        "met": error <= WITHIN,
        "reason": f"{ratio} is off by {error:.1%} at worst: {worst.get('case') or worst['run']}",
    }


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    beside = "".join(
        f"{by} {row[f'{by}_gib']:6.2f} ({row[f'{by}_to_measured']:.2f})  "
        for by in ("planned", "tracked")
        if f"{by}_gib" in row
    )
    seconds = row["seconds_per_picture"]
    return f"{row['case']:42} {row['gib']:6.2f} GiB  {beside:48} {seconds:7.2f} s a picture"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        case, out = sys.argv[1:]
        Path(out).write_text(json.dumps(measure_rank(json.loads(case))))
    else:
        main()
