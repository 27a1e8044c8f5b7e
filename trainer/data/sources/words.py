"""Synthetic words: drawn, with everything known about them (trainer/data/words.py)."""

from functools import partial
from pathlib import Path

from trainer.data.config import WordsConfig
from trainer.data.shards import SAMPLES_PER_SHARD, drawn_members
from trainer.data.tars import Job, Part, write_part
from trainer.data.words import draw_sample, missing_fonts


def plan(config: WordsConfig, _: Path) -> list[Job]:
    """A job for each shard to draw; ValueError if a font is not installed."""
    lacking = missing_fonts(config.faces)
    if lacking:
        raise ValueError(f"the lettering is not installed: pip install {' '.join(lacking)}")
    numbers = range(config.samples)
    starts = range(0, config.samples, SAMPLES_PER_SHARD)
    return [partial(_draw, config, numbers[start : start + SAMPLES_PER_SHARD]) for start in starts]


def _draw(config: WordsConfig, numbers: range, tar: Path) -> Part:
    samples = ((f"{n:09d}", drawn_members(draw_sample(config, n))) for n in numbers)
    return write_part(tar, samples, knows_text=True)
