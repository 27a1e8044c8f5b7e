"""python -m trainer.segmenter --config FILE: train a segmenter for the character-aware loss.

It tells which character each latent shows, of one autoencoder: train.objective.characters.segmenter
names its file. Samples that are not there yet are built first. Example:

  model: assets/mini
  device: cpu
  data:
    path: data/characters
    words: {samples: 4096}
  out: segmenter.safetensors
  widths: [64]
  steps: 2000
"""

import argparse
import os
import sys
from pathlib import Path

from cluster.config import add_set_option, build, describe, read_yaml, set_keys
from cluster.program import run_program
from trainer.data.build import build as build_samples
from trainer.data.jobs import in_processes
from trainer.segmenter.config import SegmenterConfig


def main() -> int:
    """Parse the command line, then import torch and train."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.segmenter",
        description=__doc__,
        epilog=f"keys:\n\n{describe(SegmenterConfig)}"
        if {"-h", "--help"} & set(sys.argv)
        else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="settings, in YAML")
    add_set_option(parser, "change them, such as steps=4000")
    arguments = parser.parse_args()
    settings = read_yaml(arguments.config)
    set_keys(settings, arguments.set)
    train(build(SegmenterConfig, settings))
    return 0


def train(config: SegmenterConfig) -> None:
    """Build the samples, then import torch, train on them and write the segmenter."""
    if config.out.exists():
        raise ValueError(f"out {config.out} is there already: name a new file, or remove it")
    print(build_samples(config.data, run=in_processes(len(os.sched_getaffinity(0)))), flush=True)
    from trainer.segmenter.training import make_segmenter

    print(make_segmenter(config))


if __name__ == "__main__":
    sys.exit(run_program(main))
