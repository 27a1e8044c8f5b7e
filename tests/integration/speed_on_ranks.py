"""What test_speed.py runs on two ranks: the same three steps in every mode, one after the other.

Prints a JSON line for each with the losses.
"""

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from cluster.config import build
from trainer import distributed
from trainer.config import TrainConfig
from trainer.data.order import rank_positions
from trainer.data.samples import open_samples
from trainer.distributed import World
from trainer.engine import take_step
from trainer.learner import start_learner
from trainer.models.pipeline import load_family
from trainer.objectives.denoising import Denoising

STEPS = 3


def main() -> None:
    """Train in every mode of the JSON file given: its name and the keys that it changes."""
    recipe, modes = json.loads(Path(sys.argv[1]).read_text())
    world = distributed.start("cpu")
    # All of compiling but the generating of code, which is torch's own and takes a minute here.
    torch.compile = functools.partial(torch.compile, backend="aot_eager")  # type: ignore[assignment]
    for name, changes in modes.items():
        start = time.monotonic()
        config = build(TrainConfig, recipe | changes, "train")
        losses = train(config, world)
        if world.is_main:
            seconds = time.monotonic() - start
            print(json.dumps({"mode": name, "losses": losses, "s": seconds}), flush=True)
    distributed.finish()


def train(config: TrainConfig, world: World) -> list[float]:
    """The losses of the first steps."""
    torch.manual_seed(0)
    family = load_family(config.model, device=world.device, dtype_of=lambda _: torch.float32)
    objective = Denoising(family, config)
    learner: Any = start_learner(family, config, world, None)
    positions = rank_positions(
        0, STEPS, global_batch=4, micro_batch=2, rank=world.rank, ranks=world.ranks
    )
    losses = []
    for batch in open_samples(config).batches(positions):
        loss = objective(learner.engine, batch, step=0).total
        learner.engine.backward(loss)
        take_step(learner.engine)
        losses.append(world.mean(loss.detach()).item())
    return losses


if __name__ == "__main__":
    main()
