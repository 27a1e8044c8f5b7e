"""The samples of a recipe: make their shards, and look at them before a GPU is asked for.

python -m trainer.data select --config RECIPE --out FILE   LAION's rows that are worth fetching
python -m trainer.data build --config RECIPE               any source -> indexed shards
python -m trainer.data check --config RECIPE               what is in them, what is broken
python -m trainer.data encode --config RECIPE              latents and text embeddings, once for all
python -m trainer.data prepare --config RECIPE             build, and encode where there is a cache
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from cluster.config import add_set_option, read_yaml, set_keys
from cluster.config import build as build_config
from cluster.program import run_program
from trainer.config import TrainConfig
from trainer.data.build import build
from trainer.data.check import check
from trainer.data.jobs import in_processes, on_ray
from trainer.data.select import select_rows

Item = TypeVar("Item")

BUILD_EXAMPLE = """\
example, train.data of a recipe:

  data:
    path: data/posters               # where the index goes, and copies of small files
    imagefolder: {path: ../posters}  # pictures and their metadata.jsonl
    laion:                           # and what img2dataset fetched, where it lies
      path: ../laion
      min_aesthetic: 5
      max_pwatermark: 0.5

`letterpress keys train.data` explains every source. A folder that is there is not built again; one
that was built of something else is refused.
"""

ENCODE_EXAMPLE = """\
example, train.data of a recipe:

  data:
    path: data/posters
    resolution: 512
    cache: data/encoded   # folders of latents and of text embeddings, named by what decides them

Uses every GPU of this machine. Several machines share the work under srun, torchrun or an agent:

  srun --nodes 4 --ntasks-per-node 8 python -m trainer.data encode --config RECIPE

Killed, it goes on where it was. Done, it is not done again, until the samples, their frames, the
autoencoder, the text encoders or train.precision change; then a new folder is written beside the
old one, which you may remove. Pictures are read by train.data.workers processes per GPU.
"""


def main() -> int:
    """Parse the command line and do what it says."""
    arguments = _parser().parse_args()
    recipe = read_yaml(arguments.config)
    set_keys(recipe, arguments.set)
    config = build_config(TrainConfig, recipe.get("train") or {}, "train")
    print(arguments.run(config, arguments), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m trainer.data", description=__doc__, formatter_class=shape
    )
    commands = parser.add_subparsers(required=True, metavar="select|build|check|encode|prepare")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, required=True, help="a recipe, or RUN/recipe.yaml")
    add_set_option(shared, "change the recipe, such as train.data.path=data/other")

    building = commands.add_parser(
        "build",
        help="make or index the shards; again at no cost",
        parents=[shared],
        epilog=BUILD_EXAMPLE,
        formatter_class=shape,
    )
    cores = len(os.sched_getaffinity(0))
    building.add_argument(
        "--workers", type=int, default=cores, help=f"processes, a shard each (default: {cores})"
    )
    building.add_argument(
        "--ray",
        action="store_true",
        help="on the Ray at RAY_ADDRESS instead; its nodes must see the same folders",
    )
    building.set_defaults(run=_build)

    checking = commands.add_parser(
        "check", help="counts, broken pictures, captions, sizes", parents=[shared]
    )
    checking.add_argument(
        "--samples",
        type=int,
        default=5000,
        help="samples to read and decode, evenly spread; 0 takes all (default: 5000)",
    )
    checking.set_defaults(run=_check)

    encoding = commands.add_parser(
        "encode",
        help="write latents and text embeddings for training to read",
        parents=[shared],
        epilog=ENCODE_EXAMPLE,
        formatter_class=shape,
    )
    encoding.add_argument(
        "--batch", type=int, help="pictures per forward pass (default: train.micro_batch)"
    )
    encoding.set_defaults(run=_encode)

    preparing = commands.add_parser(
        "prepare",
        help="build, and encode if the recipe has a cache: what every run begins with",
        parents=[shared],
    )
    preparing.set_defaults(run=_prepare, workers=cores, ray=False, batch=None)

    selecting = commands.add_parser(
        "select", help="write LAION's rows that pass the filters, for img2dataset", parents=[shared]
    )
    selecting.add_argument("--out", type=Path, required=True, help="parquet file to write")
    selecting.set_defaults(run=_select)
    return parser


def _build(config: TrainConfig, arguments: argparse.Namespace) -> str:
    if arguments.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {arguments.workers}")
    if not arguments.ray:
        return build(config.data, _bar("making shards"), in_processes(arguments.workers))
    from cluster.ray.session import prepare_environment, ray_cluster

    prepare_environment()
    with ray_cluster(cpus=arguments.workers, gpus=0):
        return build(config.data, _bar("making shards"), on_ray)


def _check(config: TrainConfig, arguments: argparse.Namespace) -> str:
    return check(config, arguments.samples, _bar("reading samples"))


def _encode(config: TrainConfig, arguments: argparse.Namespace) -> str:
    batch = config.micro_batch if arguments.batch is None else arguments.batch
    if batch < 1:
        raise ValueError(f"--batch must be at least 1, got {batch}")
    from trainer.data.cache.encode import encode

    return encode(config, batch, _bar)


def _prepare(config: TrainConfig, arguments: argparse.Namespace) -> str:
    built = _build(config, arguments)
    if config.data.cache is None:
        return built
    print(built, flush=True)
    return _encode(config, arguments)


def _select(config: TrainConfig, arguments: argparse.Namespace) -> str:
    return select_rows(config.data, arguments.out, _bar("reading metadata"))


def _bar(what: str) -> Callable[[Iterable[Item], int], Iterable[Item]]:
    def show(items: Iterable[Item], total: int) -> Iterable[Item]:
        from rich.progress import track

        return track(items, what, total, transient=True)

    return show


if __name__ == "__main__":
    sys.exit(run_program(main))
