"""Making the shards that a recipe trains on, unless they are there."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cluster.config import to_dict
from cluster.run_folder import BrokenFolder, read_manifest
from trainer.data.config import DataConfig, WordsConfig
from trainer.data.shards import write_shards
from trainer.data.words import Sample, draw_sample, missing_fonts

Progress = Callable[[Iterable[int], int], Iterable[int]]
"""Wraps the numbers of the samples while they are drawn, to show how far it is."""


def build(config: DataConfig, progress: Progress = lambda numbers, _: numbers) -> str:
    """Have `config.path` hold the samples that `config` describes; says what was done.

    Runs again at no cost; refuses a folder that holds other samples.
    """
    if config.words is None:
        return f"{_samples_there(config)} samples are in {config.path}"
    source = {"words": to_dict(config.words)}
    try:
        there = read_manifest(config.path)
    except BrokenFolder:
        there = None
    if there is not None:
        _refuse_other_samples(config, there["source"], source)
        return f"{there['samples']} samples are already in {config.path}"
    lacking = missing_fonts(config.words.faces)
    if lacking:
        raise ValueError(f"the lettering is not installed: pip install {' '.join(lacking)}")
    write_shards(_draw(config.words, progress), config.path, source)
    return f"drew {config.words.samples} samples into {config.path}"


def _draw(words: WordsConfig, progress: Progress) -> Iterator[Sample]:
    for number in progress(range(words.samples), words.samples):
        yield draw_sample(words, number)


def _samples_there(config: DataConfig) -> int:
    try:
        return int(read_manifest(config.path)["samples"])
    except BrokenFolder:
        raise ValueError(
            f"train.data.path {config.path} holds no indexed shards, and train.data names nothing "
            "to build them from"
        ) from None


def _refuse_other_samples(
    config: DataConfig, there: dict[str, Any], wanted: dict[str, Any]
) -> None:
    if there == wanted:
        return
    old, new = there.get("words", {}), wanted["words"]
    differ = [
        f"{key} {old.get(key)!r}, not {new[key]!r}" for key in new if old.get(key) != new[key]
    ]
    raise ValueError(
        f"{config.path} holds other samples ({'; '.join(differ) or 'another source'}): set "
        "train.data.path to a new folder, or remove this one"
    )
