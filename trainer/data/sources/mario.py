"""MARIO as TextDiffuser distributes it: a folder for each sample, its picture perhaps missing.

The boxes of ocr.txt and the letters of charseg.npy are in the frame of the picture shrunk to
512 x 512; here they come in the picture's own pixels.
"""

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.characters import CLASSES
from trainer.data.config import MarioConfig
from trainer.data.images import IMAGE_MEMBERS, Unusable, image_size
from trainer.data.shards import CHARSEG_MEMBER, SAMPLES_PER_SHARD
from trainer.data.sources.imagefolder import read_picture
from trainer.data.tars import Job, Part, write_part

FRAME_PX = 512
MAX_CHARSEG_PX = 4096
# A line of an index: 06269_062692210, as TextDiffuser writes it, or a path. Neither has dots.
LINE = r"[A-Za-z0-9-]+_[A-Za-z0-9-]+|[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*"


def inputs(config: MarioConfig) -> list[Path]:
    """The index file, if there is one."""
    return [config.index] if config.index else []


def plan(config: MarioConfig, _: Path) -> list[Job]:
    """A job for each shard to copy samples into."""
    if not config.path.is_dir():
        raise ValueError(f"mario.path {config.path} is no folder")
    names = _listed(config.index) if config.index else _found(config.path)
    starts = range(0, len(names), SAMPLES_PER_SHARD)
    return [partial(_copy, config, names[start : start + SAMPLES_PER_SHARD]) for start in starts]


def _listed(index: Path) -> list[str]:
    """`06269/062692210` for each line `06269_062692210` or `06269/062692210`."""
    try:
        lines = index.read_text().split()
    except FileNotFoundError:
        raise ValueError(f"mario.index {index} does not exist") from None
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(LINE, line):
            raise ValueError(
                f"{index} line {number} must be FOLDER_KEY such as 06269_062692210, or a path such "
                f"as 06269/062692210, got {line!r}"
            )
    return [line if "/" in line else line.replace("_", "/") for line in lines]


def _found(root: Path) -> list[str]:
    """Every folder that has none below it."""
    walk = os.walk(root, followlinks=True)
    found = [Path(folder).relative_to(root).as_posix() for folder, below, _ in walk if not below]
    return sorted(found)


def _copy(config: MarioConfig, names: Sequence[str], tar: Path) -> Part:
    left_out: Counter[str] = Counter()
    return write_part(tar, _samples(config, names, left_out), left_out, knows_text=True)


def _samples(
    config: MarioConfig, names: Sequence[str], left_out: Counter[str]
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    for name in names:
        try:
            yield name.replace("/", "_"), _members(config, config.path / name)
        except Unusable as error:
            left_out[error.reason] += 1


def _members(config: MarioConfig, folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise Unusable("no folder")
    caption = _read(folder / "caption.txt").partition("\n")[0].strip()
    if not caption:
        raise Unusable("no caption")
    member, picture = _picture(folder, config.min_side_px)
    info = {
        "words": _words(_read(folder / "ocr.txt"), image_size(picture), config.min_confidence),
        "metadata": _metadata(_read(folder / "info.json")),
    }
    members = {member: picture, "txt": caption.encode(), "json": json.dumps(info).encode()}
    charseg = folder / "charseg.npy"
    if charseg.exists():
        members[CHARSEG_MEMBER] = _charseg_png(charseg)
    return members


def _read(path: Path) -> str:
    """What a text file says; nothing if it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise Unusable(f"{path.name} is not UTF-8") from None


def _picture(folder: Path, min_side_px: int) -> tuple[str, bytes]:
    for member in ("jpg", *IMAGE_MEMBERS):
        path = folder / f"image.{member}"
        if path.exists():
            return read_picture(path, min_side_px)
    raise Unusable("no picture")


def _words(ocr: str, size: tuple[int, int], min_confidence: float) -> list[dict[str, Any]]:
    """Lines `text x1,y1,x2,y2,x3,y3,x4,y4 confidence`, corners clockwise from the top left."""
    words = []
    for line in ocr.splitlines():
        try:
            text, corners, confidence = line.split()
            numbers = [int(number) for number in corners.split(",")]
            pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
            sure = float(confidence)
        except ValueError:
            raise Unusable("ocr.txt cannot be read", line) from None
        if len(pairs) != 4:
            raise Unusable("ocr.txt cannot be read", line)
        if sure >= min_confidence:
            box = [[_scaled(x, size[0]), _scaled(y, size[1])] for x, y in pairs]
            words.append({"text": text, "box": box, "confidence": sure})
    return words


def _scaled(position: int, side_px: int) -> int:
    """From the frame to the picture; corners may lie outside and are brought to its edge."""
    return min(max(round(position * side_px / FRAME_PX), 0), side_px)


def _metadata(info: str) -> Any:
    try:
        return json.loads(info or "{}")
    except ValueError:
        raise Unusable("info.json cannot be read") from None


def _charseg_png(path: Path) -> bytes:
    """The characters of a picture, losslessly: half a megabyte of int64 becomes a few kilobytes."""
    try:
        characters = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: no size is believed
        fits = characters.ndim == 2 and min(characters.shape) >= 8
        if not fits or max(characters.shape) > MAX_CHARSEG_PX or characters.dtype.kind not in "iu":
            raise ValueError(f"{characters.shape} {characters.dtype}")
        if characters.min() < 0 or characters.max() >= CLASSES:
            raise ValueError(f"{characters.min()} to {characters.max()}")
    except (ValueError, OSError, EOFError) as error:
        raise Unusable("charseg.npy cannot be read", error) from None
    buffer = io.BytesIO()
    Image.fromarray(characters.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()
