"""Hugging Face's imagefolder: pictures, and a metadata file that lists them with their captions."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cluster.rows import Row, read_rows
from trainer.data.config import ImageFolderConfig
from trainer.data.images import IMAGE_MEMBERS, Unusable, image_size
from trainer.data.shards import SAMPLES_PER_SHARD
from trainer.data.tars import Job, Part, check_side, write_part

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption")
SPLITS = ("train", "validation", "valid", "val", "test")
# Names that cameras and browsers give to JPEGs.
MEMBER_OF = {"jpe": "jpg", "jfif": "jpg"}


class Listed(NamedTuple):
    """A row of the metadata."""

    number: int
    path: Path
    caption: str
    others: Row


def inputs(config: ImageFolderConfig) -> list[Path]:
    """The metadata files; ValueError if there are none, of two kinds, or of several splits."""
    if not config.path.is_dir():
        raise ValueError(f"imagefolder.path {config.path} is no folder")
    found = sorted(path for name in METADATA for path in config.path.rglob(name))
    kinds = sorted({path.name for path in found})
    if len(kinds) != 1:
        wrong = " and ".join(kinds) if kinds else "no metadata"
        raise ValueError(f"{config.path} holds {wrong}: it takes one of {', '.join(METADATA)}")
    splits = {path.relative_to(config.path).parts[0] for path in found}.intersection(SPLITS)
    if len(splits) > 1:
        raise ValueError(
            f"{config.path} holds the splits {', '.join(sorted(splits))}: set imagefolder.path to "
            f"one of them, such as {config.path / min(splits)}"
        )
    return found


def plan(config: ImageFolderConfig, _: Path) -> list[Job]:
    """A job for each shard to copy pictures into; ValueError if a row leads out of the folder."""
    listed: list[Listed] = []
    for path in inputs(config):
        listed += _list(config, path, len(listed))
    starts = range(0, len(listed), SAMPLES_PER_SHARD)
    chunks = (listed[start : start + SAMPLES_PER_SHARD] for start in starts)
    return [partial(_copy, config.min_side_px, chunk) for chunk in chunks]


def _list(config: ImageFolderConfig, metadata: Path, first: int) -> Iterator[Listed]:
    rows = list(read_rows(metadata))
    if not any(FILE_COLUMN in row for row in rows):
        raise ValueError(f"{metadata} has no column {FILE_COLUMN}, only {_columns(rows)}")
    column = _caption_column(config, rows, metadata)
    for number, row in enumerate(rows):
        path = _inside(config.path, metadata, number + 1, str(row.get(FILE_COLUMN) or ""))
        others = {key: row[key] for key in row if key not in (FILE_COLUMN, column)}
        yield Listed(first + number, path, _text(row.get(column)), others)


def _caption_column(config: ImageFolderConfig, rows: Sequence[Row], metadata: Path) -> str:
    wanted = (config.caption_column,) if config.caption_column else CAPTION_COLUMNS
    for column in wanted:
        if any(column in row for row in rows):
            return column
    raise ValueError(
        f"{metadata} has no column {' or '.join(wanted)}: set imagefolder.caption_column to one "
        f"of {_columns(rows)}"
    )


def _columns(rows: Sequence[Row]) -> str:
    return ", ".join(rows[0]) if rows else "no rows"


def _inside(root: Path, metadata: Path, row: int, name: str) -> Path:
    """The file that a row names; ValueError if it is not below the folder."""
    # By the letters of its name: links in the folder are its owner's affair.
    path = os.path.normpath(os.path.join(os.path.abspath(metadata.parent), name.replace("\\", "/")))
    if not path.startswith(os.path.abspath(root) + os.sep):
        raise ValueError(f"{metadata} row {row} names {name!r}, which is no file in {root}")
    return Path(path)


def _text(value: Any) -> str:
    """A caption, or the first of a list of them; empty where there is none."""
    if isinstance(value, list | tuple):
        value = next((text for text in value if text), "")
    return str(value if value is not None else "").strip()


def _copy(min_side_px: int, listed: Sequence[Listed], tar: Path) -> Part:
    left_out: Counter[str] = Counter()
    return write_part(tar, _samples(min_side_px, listed, left_out), left_out)


def _samples(
    min_side_px: int, listed: Sequence[Listed], left_out: Counter[str]
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    for row in listed:
        try:
            if not row.caption:
                raise Unusable("no caption")
            member, data = read_picture(row.path, min_side_px)
        except Unusable as error:
            left_out[error.reason] += 1
        else:
            info = json.dumps({"file": row.path.name, "metadata": row.others}, default=str)
            yield (
                f"{row.number:09d}",
                {
                    member: data,
                    "txt": row.caption.encode(),
                    "json": info.encode(),
                },
            )


def read_picture(path: Path, min_side_px: int) -> tuple[str, bytes]:
    """The member name for a file and its bytes as they are; Unusable if it is no picture."""
    suffix = path.suffix.lower().removeprefix(".")
    member = MEMBER_OF.get(suffix, suffix)
    if member not in IMAGE_MEMBERS:
        raise Unusable(f"a file name that ends in {path.suffix or 'nothing'}")
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise Unusable("no picture") from None
    check_side(image_size(data), min_side_px)
    return member, data
