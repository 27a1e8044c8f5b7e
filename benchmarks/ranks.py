"""Drive the trainer's own engine and objective without a run folder, on ranks started here."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.config import build
from trainer import distributed
from trainer.config import TrainConfig, split_batch
from trainer.data.loader import Batch
from trainer.distributed import World
from trainer.engine import take_step
from trainer.learner import Learner, start_learner
from trainer.models.pipeline import load_family
from trainer.objectives.objective import Objective
from trainer.train import open_objective

Case = Mapping[str, Any]
CAPTION = "a photograph of a street with a sign that says 'open'"


def on_ranks(module: str, case: Case, ranks: int) -> list[dict[str, Any]]:
    """Run `python -m module CASE OUT` on so many ranks; what each of them wrote as JSON."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        outs = [Path(folder) / f"{rank}.json" for rank in range(ranks)]
        processes = []
        for rank, out in enumerate(outs):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            command = [sys.executable, "-m", module, json.dumps(case), str(out)]
            log = out.with_suffix(".log").open("w+")
            environment = {**os.environ, **place, **meet}
            processes.append((subprocess.Popen(command, env=environment, stderr=log), log))
        for process, log in processes:
            if process.wait():
                log.seek(0)
                raise RuntimeError(f"{json.dumps(case)} failed:\n{log.read()[-3000:]}")
        return [json.loads(out.read_text()) for out in outs]


@dataclass(frozen=True)
class Training:
    """A learner and all that a step of it needs."""

    config: TrainConfig
    world: World
    objective: Objective
    learner: Learner
    batch: Batch

    def step(self) -> None:
        """One optimizer step, as trainer/train.py takes it; always over the same pictures."""
        engine = self.learner.engine
        for _ in range(split_batch(self.config, self.world.ranks).accumulation):
            engine.backward(self.objective(engine, self.batch, step=0).total)
            take_step(engine)
        self.learner.step += 1
        if self.learner.ema:
            self.learner.ema.update(self.learner.step)


def train_config(keys: Case) -> TrainConfig:
    """The train section of a case, which needs no data."""
    return build(TrainConfig, {"data": {"path": "."}, "steps": 1000, **keys})


def start_training(config: TrainConfig, resolution: int) -> Training:
    """Join the other ranks and make what is needed to take steps."""
    world = distributed.start(config.device)
    frozen = torch.bfloat16 if config.precision == "bf16" else torch.float32
    family = load_family(
        config.model,
        device=world.device,
        dtype_of=lambda name: frozen if config.how(name) == "frozen" else torch.float32,
    )
    objective = open_objective(family, config)
    torch.manual_seed(0)
    learner = start_learner(family, config, world, None)
    pictures = split_batch(config, world.ranks).micro_batch
    return Training(config, world, objective, learner, random_batch(pictures, resolution))


def random_batch(pictures: int, resolution: int) -> Batch:
    """Pictures of noise with a caption."""
    return Batch(
        positions=list(range(pictures)),
        images=torch.randint(0, 256, (pictures, 3, resolution, resolution), dtype=torch.uint8),
        masks=None,
        sizes=torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]] * pictures),
        captions=[CAPTION] * pictures,
        broken=[],
    )
