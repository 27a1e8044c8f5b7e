"""Make inference weights from a checkpoint at any time: the average or the weights themselves.

  python -m trainer.export --run runs/mini --out mini-320
  python -m trainer.export --run runs/mini --step 320 --weights master --dtype fp16 --out mini-320

The folder is what a run writes into exports/: for diffusers, and for web UIs where there are files
for them (docs/training.md). It needs no GPU.
"""

import argparse
import shutil
import sys
from pathlib import Path

from cluster.config import build, read_yaml
from cluster.program import run_program
from cluster.run_folder import RunFolder, published_steps
from trainer.config import TrainConfig


def main() -> int:
    """Parse the command line, then import torch and export."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--step", type=int, help="whose checkpoint; the newest if left out")
    parser.add_argument(
        "--weights",
        choices=("ema", "master"),
        help="the running average or the weights themselves; the average if there is one",
    )
    parser.add_argument(
        "--dtype",
        choices=("fp16", "bf16", "fp32"),
        help="of networks that were trained whole; as the recipe says if left out",
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    arguments = parser.parse_args()
    run = RunFolder.existing(arguments.run)
    config = build(TrainConfig, read_yaml(run.recipe).get("train") or {}, "train")
    checkpoint = _checkpoint_folder(run, arguments.step)
    if arguments.out.exists():
        raise ValueError(f"--out {arguments.out} is there already: name a new folder")
    _export(checkpoint, config, arguments.weights, arguments.dtype, arguments.out)
    print(f"exported {checkpoint.name} to {arguments.out}")
    return 0


def _checkpoint_folder(run: RunFolder, step: int | None) -> Path:
    steps = dict(published_steps(run.checkpoints))
    if not steps:
        raise ValueError(f"{run.root} has no checkpoint to export")
    if step is None:
        return steps[max(steps)]
    if step not in steps:
        raise ValueError(f"{run.root} has no checkpoint of step {step}: it has {sorted(steps)}")
    return steps[step]


def _export(
    folder: Path, config: TrainConfig, weights: str | None, dtype: str | None, out: Path
) -> None:
    import torch

    from cluster.run_folder import publish, verify
    from trainer.checkpoint import Checkpoint
    from trainer.models.pipeline import load_family
    from trainer.models.trained import Trained
    from trainer.objectives.denoising import predicted_by
    from trainer.publish import export_weights

    facts = verify(folder)
    family = load_family(
        config.model,
        model_config=config.model_config,
        device=torch.device("cpu"),
        dtype_of=lambda _: torch.float32,
    )
    Trained(family, config)  # gives the networks their adapters, whose settings are exported
    prediction = predicted_by(family, config)
    staging = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    made = export_weights(
        Checkpoint(folder), staging, family, config, prediction, weights=weights, dtype=dtype
    )
    publish(staging, out, {**made, "step": facts["step"], "final": facts["final"]}, latest=False)


if __name__ == "__main__":
    sys.exit(run_program(main))
