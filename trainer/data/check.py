"""What a run would train on, as a page of text: counts, broken pictures, captions, text, sizes."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from numpy.typing import NDArray
from PIL import ImageStat

from cluster.table import align
from trainer.config import TrainConfig
from trainer.data.buckets import bucket_fill
from trainer.data.config import DataConfig
from trainer.data.framing import quotes_words, spoils_text
from trainer.data.shards import ShardFolder, describe_left_out

Progress = Callable[[Sequence[int], int], Iterable[int]]
MAX_TOKENS = 77  # what CLIP's text encoders read, their two marks included
MAX_NAMED = 5
BAR_WIDTH = 30
SIDE_PX = (64, 128, 256, 384, 512, 768, 1024, 2048)
ASPECTS = ((1, 3), (1, 2), (2, 3), (4, 5), (5, 4), (3, 2), (2, 1), (3, 1))  # width to height


class Reading(NamedTuple):
    """What was found in one sample."""

    caption: str
    broken: str
    """Why it cannot be trained on; empty if it can."""
    words: int
    text_share: float | None
    """Share of the pixels that show text; None where that is not known."""


def check(config: TrainConfig, samples: int, progress: Progress = lambda n, _: n) -> str:
    """Read up to `samples` samples (0: all) of `config.data.path`, evenly spread; the report."""
    if samples < 0:
        raise ValueError(f"--samples must be 0 or more, got {samples}")
    pictures = config.data.prompts is None
    folder = ShardFolder(config.data.path, pictures=pictures)
    numbers = _spread(len(folder), samples)
    readings = [_read(folder, n, pictures) for n in progress(numbers, len(numbers))]
    sections = [
        _sources(folder),
        _broken(readings, len(folder)),
        _captions([reading.caption for reading in readings if reading.caption], config.model),
    ]
    if pictures:
        sections += [
            _text(folder, readings, config.data),
            _sizes(folder.sizes),
            _frames(folder.sizes, config),
        ]
    return "\n\n".join(sections)


def _spread(total: int, wanted: int) -> list[int]:
    if not wanted or wanted >= total:
        return list(range(total))
    return [number * total // wanted for number in range(wanted)]


def _read(folder: ShardFolder, number: int, pictures: bool) -> Reading:
    caption, words, share = "", 0, None
    try:
        caption = folder.caption(number)
        if pictures:
            folder.image(number)
            words, mask = len(folder.words(number)), folder.mask(number)
            share = ImageStat.Stat(mask).mean[0] / 255 if mask else None
    except (OSError, ValueError) as error:
        return Reading(caption, f"{folder.key(number)} ({error})", 0, None)
    return Reading(caption, "", words, share)


def _sources(folder: ShardFolder) -> str:
    rows = [["source", "samples", "left out"]]
    notes = []
    for source in folder.manifest["sources"]:
        left_out = source["left_out"]
        rows.append([source["name"], f"{source['samples']:,}", f"{sum(left_out.values()):,}"])
        if left_out:
            notes.append(f"left out of {source['name']}: {describe_left_out(left_out)}")
    title = f"{folder.folder}: {len(folder):,} samples in {len(folder.shards):,} shards"
    return "\n".join([title, *align(rows), *notes])


def _broken(readings: Sequence[Reading], total: int) -> str:
    broken = [reading.broken for reading in readings if reading.broken]
    title = f"read {len(readings):,} of {total:,} samples, {len(broken):,} of them broken"
    more = [f"and {len(broken) - MAX_NAMED} more"] if len(broken) > MAX_NAMED else []
    return "\n".join([title, *broken[:MAX_NAMED], *more])


def _captions(captions: Sequence[str], model: str) -> str:
    if not captions:
        return "captions: none could be read"
    tokenizer = _tokenizer(model)
    if tokenizer is None:
        lengths = [len(caption.split()) for caption in captions]
        note = f"no tokenizer folder in {model}: counted in words"
        return f"caption words: {_spread_of(lengths)}\n{note}"
    lengths = [len(ids) for ids in tokenizer(list(captions), verbose=False)["input_ids"]]
    limit = min(tokenizer.model_max_length, MAX_TOKENS)
    long = [caption for caption, n in zip(captions, lengths, strict=True) if n > limit]
    lines = [
        f"caption tokens: {_spread_of(lengths)}",
        f"longer than {limit}: {len(long):,} of {len(captions):,}; their ends are not read",
    ]
    return "\n".join([*lines, *(f"such as: {caption}" for caption in long[:1])])


def _tokenizer(model: str) -> Any:
    """The tokenizer of a diffusers folder, or of a hub name in the cache; None if there is none."""
    folder = Path(model)
    if not folder.exists():
        try:
            folder = Path(snapshot_download(model, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    if not (folder / "tokenizer").is_dir():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def _spread_of(lengths: Sequence[int]) -> str:
    low, middle, high, top = np.percentile(lengths, [0, 50, 95, 100])
    return f"{low:.0f} to {top:.0f}, half up to {middle:.0f}, 95 % up to {high:.0f}"


def _text(folder: ShardFolder, readings: Sequence[Reading], config: DataConfig) -> str:
    quoted = any(quotes_words(reading.caption) for reading in readings)
    warning = spoils_text(config, folder.has_text_truth or quoted)
    warnings = [f"warning: {warning}"] if warning else []
    if not folder.has_text_truth:
        return "\n".join(["text: where the pictures show text is not known", *warnings])
    whole = [reading for reading in readings if not reading.broken]
    words = [reading.words for reading in whole if reading.words]
    shares = [reading.text_share for reading in whole if reading.text_share is not None]
    lines = [f"text: words are known of {len(words):,} of {len(whole):,} pictures"]
    if words:
        lines[0] += f", {np.mean(words):.1f} in each"
    if shares:
        lines.append(f"text covers {np.mean(shares):.1%} of {len(shares):,} pictures")
    return "\n".join([*lines, *warnings])


def _sizes(sizes: NDArray[np.int64]) -> str:
    width, height = sizes[:, 0], sizes[:, 1]
    by_side = _histogram(np.minimum(width, height), SIDE_PX, [str(side) for side in SIDE_PX])
    edges = [w / h for w, h in ASPECTS]
    by_aspect = _histogram(width / height, edges, [f"{w}:{h}" for w, h in ASPECTS])
    return "\n".join(["shorter side, pixels", *by_side, "", "aspect, width to height", *by_aspect])


def _frames(sizes: NDArray[np.int64], config: TrainConfig) -> str:
    try:
        fill = bucket_fill(sizes, config.data, config.global_batch)
    except ValueError as error:
        return f"frames: {error}"
    rows = [["frame", "samples", "batches an epoch", "cut away", "enlarged", ""]]
    for row in fill:
        cells = [f"{row.samples:,}", f"{row.batches_per_epoch:,.1f}"]
        cut = "–" if row.cropped is None else f"{row.cropped:.1%}"
        size = "none" if row.size is None else f"{row.size.width} x {row.size.height}"
        rows.append([size, *cells, cut, f"{row.upscaled:,}", row.remark])
    return "\n".join(align(rows))


def _histogram(values: NDArray[Any], edges: Sequence[float], names: Sequence[str]) -> list[str]:
    """A line for each class from the first to the last that is not empty."""
    counts = np.bincount(np.digitize(values, edges), minlength=len(edges) + 1)
    labels = [f"below {names[0]}"]
    labels += [f"{low} to {high}" for low, high in pairwise(names)]
    labels.append(f"{names[-1]} and more")
    used = np.flatnonzero(counts)
    shown = range(used[0], used[-1] + 1)
    shares = counts / len(values)
    rows = [[labels[n], f"{counts[n]:,}", f"{shares[n]:.1%}"] for n in shown]
    bars = ["█" * round(BAR_WIDTH * shares[n]) for n in shown]
    return [f"  {line}  {bar}".rstrip() for line, bar in zip(align(rows), bars, strict=True)]
