"""What test_recipes.py runs on one rank: one run after the other, by the ordinary loop."""

import sys
from pathlib import Path

import torch

from cluster.config import build, read_yaml
from cluster.run_folder import RunFolder
from trainer import distributed
from trainer.config import TrainConfig
from trainer.train import train


def main() -> None:
    """Train the recipe in each of the run folders."""
    torch.set_num_threads(1)  # of tiny tensors; two threads would fight for busy cores
    for folder in sys.argv[1:]:
        run = RunFolder(Path(folder))
        config = build(TrainConfig, read_yaml(run.recipe)["train"], "train")
        train(config, run, run.begin_attempt())
    distributed.finish()


if __name__ == "__main__":
    main()
