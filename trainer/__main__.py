"""python -m trainer --config RUN/recipe.yaml: one rank of a training run; the agent starts it."""

import argparse
import sys
from pathlib import Path

from cluster.config import build, describe, read_yaml
from cluster.fence import Fence
from cluster.hangs.stacks import answer_with_stacks
from cluster.imports import importing
from cluster.program import run_program
from cluster.run_folder import RunFolder
from trainer.config import TrainConfig


def main() -> int:
    """Parse the command line, then import torch and train."""
    answer_with_stacks()
    asked = {"-h", "--help"} & set(sys.argv)  # the page takes as long as importing much of torch
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description=__doc__,
        epilog=f"The keys of a recipe's train section:\n\n{describe(TrainConfig, 'train')}"
        if asked
        else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="RUN/recipe.yaml")
    parser.add_argument("--attempt", type=int, required=True, help="number of the attempt")
    arguments = parser.parse_args()
    config = build(TrainConfig, read_yaml(arguments.config).get("train") or {}, "train")
    with importing():
        from trainer import distributed
        from trainer.train import train

        distributed.import_deepspeed(config.device)
    run = RunFolder(arguments.config.parent)
    try:
        code = train(config, run, arguments.attempt)
    except Exception:
        # A newer attempt sweeps away what we were writing, and removes what we were exporting; the
        # first of our ranks to find out is missed by the others.
        Fence(run, arguments.attempt).check()
        raise
    distributed.finish()
    return code


if __name__ == "__main__":
    sys.exit(run_program(main))
