"""What test_averages.py runs on two ranks: every stage and precision, one after the other.

Prints a JSON line for each with the largest difference between the averages that the ranks keep of
their parts, put together again through a checkpoint, and one kept of the whole weights.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from cluster.run_folder import publish
from tests.conftest import train_config
from trainer import distributed
from trainer.checkpoint import Checkpoint, part_file, save_part
from trainer.config import EmaConfig, OptimConfig, ZeroConfig
from trainer.distributed import World
from trainer.ema import EMA, Ema
from trainer.engine import start_engine, take_step
from trainer.masters import MASTER, Masters

STEPS = 6
EMA_CONFIG = EmaConfig(decay=0.7, start_step=2, every=2)


def main() -> None:
    """Measure every combination."""
    world = distributed.start("cpu")
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            error = largest_error(stage, precision, world, Path(sys.argv[1]))
            if world.is_main:
                line = {"stage": stage, "precision": precision, "error": error}
                print(json.dumps(line), flush=True)
    distributed.finish()


def largest_error(stage: int, precision: str, world: World, folder: Path) -> float:
    """Train a small network with odd shapes; the largest difference, and that it is no zero."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 36, 7))
    config = train_config(
        Path("none"),
        precision=precision,
        global_batch=2,
        zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
        optim=OptimConfig(lr=1e-2),
    )
    engine = start_engine(network, config, world.ranks)
    masters = Masters(engine, world.rank, world.ranks)
    ema = Ema(masters, EMA_CONFIG)
    whole: dict[str, torch.Tensor] = {}
    for step in range(1, STEPS + 1):
        generator = torch.Generator().manual_seed(step * world.ranks + world.rank)
        inputs = torch.randn(1, 3, 8, 8, generator=generator).to(next(network.parameters()).dtype)
        engine.backward(engine(inputs).float().square().mean())
        take_step(engine)
        ema.update(step)
        weights = saved(folder / f"{stage}-{precision}-{step}", masters, ema, world)
        now = weights.weights(MASTER)
        if step == EMA_CONFIG.start_step:
            whole = now
        elif step > EMA_CONFIG.start_step and step % EMA_CONFIG.every == 0:
            whole = {n: torch.lerp(whole[n], now[n], 1 - ema.decay(step)) for n in whole}
    averages, masters_now = weights.weights(EMA), weights.weights(MASTER)
    assert any(not torch.equal(averages[name], masters_now[name]) for name in averages)
    return max(float((averages[name] - whole[name]).abs().max()) for name in whole)


def saved(folder: Path, masters: Masters, ema: Ema, world: World) -> Checkpoint:
    """All ranks' parts as a checkpoint."""
    averages = {f"{EMA}/{number}": average for number, average in ema.averages.items()}
    tensors = {name: tensor.clone() for name, tensor in (masters.saved() | averages).items()}
    staging = folder.with_suffix(".tmp")
    save_part(staging / part_file(world.rank), tensors, masters.fragments_of(masters.mine))
    world.barrier()
    if world.is_main:
        publish(staging, folder, {"step": 1, "shapes": masters.shapes, "history": {}})
    world.barrier()
    return Checkpoint(folder)


if __name__ == "__main__":
    main()
