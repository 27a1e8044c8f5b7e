"""python -m trainer.data build --config RECIPE: make the shards that a recipe trains on."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from cluster.config import build as build_config
from cluster.config import read_yaml
from cluster.program import run_program
from trainer.config import TrainConfig
from trainer.data.build import build


def main() -> int:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m trainer.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build")
    build_parser = commands.add_parser("build", help="draw or index the samples; again at no cost")
    build_parser.add_argument(
        "--config", type=Path, required=True, help="a recipe, or RUN/recipe.yaml"
    )
    arguments = parser.parse_args()
    recipe = read_yaml(arguments.config)
    config = build_config(TrainConfig, recipe.get("train") or {}, "train")
    print(build(config.data, _show_progress), flush=True)
    return 0


def _show_progress(numbers: Iterable[int], total: int) -> Iterable[int]:
    from rich.progress import track

    return track(numbers, "drawing samples", total, transient=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
