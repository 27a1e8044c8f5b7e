"""python -m benchmarks.checkpoint_stall: for how long training stands still to save a checkpoint.

A random UNet is trained whole, with an average, on random pictures, and saved again and again, in
turns:

    asynchronous   as the trainer does it: the step loop copies to host memory and goes on; a thread
                   writes and hashes, the loop publishes between two steps
    blocking       the same work done before the next step: copy, write, hash, publish

Counted are the seconds that rank 0 spends in the publisher's calls from the save until the
checkpoint exists, the GPU's copy included. The export that follows is beside the loop in both. The
first save of an attempt is told apart: it takes the host memory that the others use again.
Runs on the GPUs that torch sees, else on the CPU, where the writer takes its cores from the steps:
so steps per second are told too, with a checkpoint or its export under way and without.
"""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.machine import machine
from cluster.agent import run_node
from cluster.program import run_program
from cluster.rendezvous import local_node
from cluster.run_folder import (
    MANIFEST,
    RunFolder,
    published_steps,
    read_json,
    read_manifest,
    write_json,
)
from trainer import distributed
from trainer.config import EmaConfig, KeepConfig, TrainConfig, ZeroConfig
from trainer.data.config import DataConfig
from trainer.data.loader import Batch
from trainer.distributed import World
from trainer.engine import take_step
from trainer.journal import Journal
from trainer.learner import Learner, start_learner
from trainer.mini.networks import Size, new_autoencoder, new_clip, new_tokenizer, save_model
from trainer.models.pipeline import load_family
from trainer.objectives.denoising import Denoising
from trainer.publish import Publisher

HERE = Path(__file__).parent
DEVICE: Literal["cuda", "cpu"] = "cuda" if torch.cuda.is_available() else "cpu"
UNET = {"cpu": (256, 256), "cuda": (1280, 1280)}  # 22 and 555 million weights
FRAME_PX = (32, 96)
BATCH = 1  # for each rank
SAVES = 7  # of each kind
QUIET_STEPS = 5  # before each save
TARGET = 0.15


def main() -> int:
    """Measure, print a table, and write it beside this file; or be a rank that is measured."""
    parser = argparse.ArgumentParser(description="how long training stands still to save")
    parser.add_argument("--rank", type=Path, help="internal: a rank, with its files in this folder")
    folder = parser.parse_args().rank
    if folder:
        with_ranks(folder)
        return 0
    most = torch.cuda.device_count() if DEVICE == "cuda" else 2
    measured_on = machine()
    cases = {f"{ranks} ranks": measure(ranks) for ranks in (1, 2) if ranks <= most}
    targets = [aim(name, case) for name, case in cases.items()]
    report = {
        "command": "python -m benchmarks.checkpoint_stall",
        "unit": f"seconds for each checkpoint, median of {SAVES}",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "deepspeed", "safetensors")},
        "cases": cases,
        "targets": targets,
    }
    for target in targets:
        print(f"{target['target']}: {target['measured']}, {'met' if target['met'] else 'missed'}")
    path = HERE / "results" / f"checkpoint_stall-{DEVICE}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")
    return 0


def measure(ranks: int) -> dict[str, Any]:
    """Start ranks and show what they found."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "model")
        run = RunFolder(Path(folder) / "run")
        command = [sys.executable, "-m", "benchmarks.checkpoint_stall", "--rank", folder]
        code = run_node(run, run.begin_attempt(), local_node(ranks), command)
        assert code == 0, run.attempt(0).rank_log(0).read_text()
        result: dict[str, Any] = read_json(Path(folder) / "result.json")
    print(f"{ranks} ranks, {result['checkpoint_mb']} MB a checkpoint")
    for kind in ("asynchronous", "blocking"):
        print(f"  {kind:13} {result['stall_s'][kind]:8.3f} s")
    print(f"  the first     {result['first_stall_s']:8.3f} s")
    print(f"  steps/s       {result['steps_per_s']}")
    return result


def make_model(folder: Path) -> None:
    """A pipeline with random weights, small but for its UNet."""
    torch.manual_seed(0)
    size = Size(unet=UNET[DEVICE], vision_layers=1)
    tokenizer = new_tokenizer(size.max_tokens)
    save_model(folder, size, new_autoencoder(size), new_clip(size, tokenizer), tokenizer)


def with_ranks(folder: Path) -> None:
    """One rank: train, save in turns; rank 0 writes the medians into `folder`."""
    world = distributed.start(DEVICE)
    run = RunFolder(folder / "run")
    config = train_config(folder, world.ranks)
    with Journal(run, 0, world, steps=1, images_per_step=config.global_batch) as journal:
        trial = start_trial(config, run, world, journal)
        first_s = trial.save(blocking=False)
        trial.until_exported()
        first_s += trial.advance_s
        stall_s: dict[str, list[float]] = {"asynchronous": [], "blocking": []}
        rates: dict[str, list[float]] = {"quiet": [], "while saving": []}
        for _ in range(SAVES):
            for kind, seconds in stall_s.items():
                rates["quiet"].append(trial.quiet())
                seconds.append(trial.save(blocking=kind == "blocking"))
                rate = trial.until_exported()
                if kind == "asynchronous":
                    seconds[-1] += trial.advance_s
                    rates["while saving"].append(rate)
        trial.publisher.close()
    if world.is_main:
        write_json(folder / "result.json", summary(run, first_s, stall_s, rates))
    distributed.finish()


@dataclass
class Trial:
    """Training on one batch, over and over."""

    run: RunFolder
    world: World
    objective: Denoising
    publisher: Publisher
    learner: Learner
    batch: Batch
    advance_s: float = 0.0
    """What publishing between the steps has cost since the last save."""

    def step(self) -> None:
        """One optimizer step."""
        learner = self.learner
        learner.engine.backward(self.objective(learner.engine, self.batch, step=0).total)
        take_step(learner.engine)
        learner.step += 1
        assert learner.ema is not None
        learner.ema.update(learner.step)

    def quiet(self) -> float:
        """Steps per second with nothing beside them."""
        _synchronize()
        began_s = time.monotonic()
        for _ in range(QUIET_STEPS):
            self.step()
        _synchronize()
        return QUIET_STEPS / (time.monotonic() - began_s)

    def save(self, *, blocking: bool) -> float:
        """Save; for how long that took."""
        _synchronize()
        self.world.barrier()
        self.advance_s = 0.0
        began_s = time.monotonic()
        self.publisher.save(self.learner, [], final=False)
        if blocking:
            self.publisher.wait()
        _synchronize()
        return time.monotonic() - began_s

    def until_exported(self) -> float:
        """Train on until the last checkpoint and its export exist; steps per second."""
        export = self.run.export(self.learner.step) / MANIFEST
        steps, began_s = 0, time.monotonic()
        while self.world.any(self.world.is_main and not export.exists()):
            self.step()
            _synchronize()
            before_s = time.monotonic()
            self.publisher.advance()
            self.advance_s += time.monotonic() - before_s
            steps += 1
        return steps / (time.monotonic() - began_s)


def start_trial(config: TrainConfig, run: RunFolder, world: World, journal: Journal) -> Trial:
    """All that training takes, without a data set."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    family = load_family(
        config.model,
        device=world.device,
        dtype_of=lambda name: torch.float32 if name == "unet" else dtype,
    )
    objective = Denoising(family, config)
    publisher = Publisher(run, 0, config, world, journal, objective)
    learner = start_learner(family, config, world, None)
    images = torch.randint(256, (BATCH, 3, *FRAME_PX), dtype=torch.uint8)
    sizes = torch.tensor([[*FRAME_PX, 0, 0, *FRAME_PX]] * BATCH)
    batch = Batch(
        positions=list(range(BATCH)),
        images=images,
        masks=None,
        sizes=sizes,
        captions=["a word"] * BATCH,
        broken=[],
    )
    trial = Trial(run, world, objective, publisher, learner, batch)
    trial.quiet()
    return trial


def train_config(folder: Path, ranks: int) -> TrainConfig:
    """The whole UNet with an average of its weights."""
    return TrainConfig(
        model=str(folder / "model"),
        data=DataConfig(path=folder),
        steps=10**6,
        global_batch=BATCH * ranks,
        micro_batch=BATCH,
        device=DEVICE,
        precision="bf16" if DEVICE == "cuda" else "fp32",
        ema=EmaConfig(),
        zero=ZeroConfig(stage=2),
        keep=KeepConfig(newest=1),
    )


def summary(
    run: RunFolder,
    first_s: float,
    stall_s: dict[str, list[float]],
    rates: dict[str, list[float]],
) -> dict[str, Any]:
    """The medians, and what they were taken of."""
    _, newest = published_steps(run.checkpoints)[-1]
    size = sum(facts["bytes"] for facts in read_manifest(newest)["files"].values())
    medians = {kind: statistics.median(seconds) for kind, seconds in stall_s.items()}
    return {
        "checkpoint_mb": round(size / 1e6),
        "stall_s": medians,
        "first_stall_s": first_s,
        "asynchronous / blocking": medians["asynchronous"] / medians["blocking"],
        "steps_per_s": {kind: statistics.median(values) for kind, values in rates.items()},
        "each_stall_s": stall_s,
    }


def aim(name: str, case: dict[str, Any]) -> dict[str, Any]:
    """What was set out to reach, and whether it is."""
    measured = case["asynchronous / blocking"]
    return {
        "target": f"{name}: asynchronous / blocking <= {TARGET}",
        "measured": round(measured, 3),
        "met": measured <= TARGET,
    }


def _synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(run_program(main))
