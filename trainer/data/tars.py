"""One WebDataset tar: writing it, and finding every sample in it without unpacking it."""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.images import HEAD_BYTES, IMAGE_MEMBERS, Unusable, image_size

CAPTION_MEMBER = "txt"
INFO_MEMBER = "json"
MAX_KEY_BYTES = 200
MAX_MEMBERS = 64
# Columns of an index that are not members of a sample.
COLUMNS = ("key", "shard", "source", "width", "height")


class UnusableShard(ValueError):
    """A tar that ends early, is none, or lacks what is asked for; the message names it."""


class TarSample(NamedTuple):
    """Where the members of one sample lie in a tar."""

    key: str
    members: dict[str, tuple[int, int]]
    """Member name, such as `jpg` -> (offset, bytes)."""


class Part(NamedTuple):
    """What became of one shard."""

    shard: str
    """Name of the tar in the folder, or its absolute path elsewhere."""
    rows: NDArray[np.void]
    """A row for each sample: `key`, `width`, `height`, and (offset, bytes) of each member."""
    left_out: Counter[str]
    """Samples that were not taken, by reason."""
    knows_text: bool = False
    """Words or a mask of the letters come with the pictures."""


Job = Callable[[Path], Part]
"""Makes one shard at the path, or indexes one that lies elsewhere; travels between processes."""


def write_part(
    path: Path,
    samples: Iterable[tuple[str, Mapping[str, bytes]]],
    left_out: Counter[str] | None = None,
    *,
    knows_text: bool = False,
    pictures: bool = True,
) -> Part:
    """Write (key, members) of every sample into a tar; no tar if there is none.

    `left_out` is filled by whoever makes the samples, while they are written.
    """
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for name, data in members.items():
                header = tarfile.TarInfo(f"{key}.{name}")  # of no time: equal samples, equal bytes
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    left_out = Counter() if left_out is None else left_out
    rows = examine(path, list_samples(path), left_out, pictures=pictures)
    if not len(rows):
        path.unlink()
    return Part(path.name, rows, left_out, knows_text)


def list_samples(path: Path) -> list[TarSample]:
    """Every sample in a tar, in its order; UnusableShard if the tar does not end as it should."""
    samples: dict[str, TarSample] = {}
    try:
        with _open(path) as tar:
            for member in tar:
                key, name = _split(member.name)
                plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)  # no link, not sparse
                if plain and name and name not in COLUMNS:
                    sample = samples.setdefault(key, TarSample(key, {}))
                    sample.members[name] = (member.offset_data, member.size)
            end = tar.offset
    except tarfile.TarError as error:
        raise UnusableShard(_broken(path, path.stat().st_size, error)) from None
    with path.open("rb") as file:  # tarfile takes a damaged header for the end
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UnusableShard(_broken(path, end, "no header and no end mark"))
    return list(samples.values())


def examine(
    path: Path,
    samples: Sequence[TarSample],
    left_out: Counter[str],
    *,
    min_side_px: int = 0,
    pictures: bool = True,
) -> NDArray[np.void]:
    """The rows of the samples that can be trained on; the others are counted by reason."""
    kept: list[TarSample] = []
    sizes: list[tuple[int, int]] = []
    with path.open("rb") as tar:
        handle = tar.fileno()
        for sample in samples:
            try:
                _check_caption(handle, sample)
                size = _size(handle, sample, min_side_px) if pictures else (0, 0)
            except Unusable as error:
                left_out[error.reason] += 1
            else:
                kept.append(sample)
                sizes.append(size)
    return _rows(kept, sizes)


def join_parts(parts: Sequence[tuple[int, Part]]) -> NDArray[np.void]:
    """The index of a folder: the rows of all (source, part), with columns `shard` and `source`."""
    members = sorted({name for _, part in parts for name in members_of(part.rows)})
    key_bytes = max(part.rows.dtype["key"].itemsize for _, part in parts)
    index = np.zeros(sum(len(part.rows) for _, part in parts), _dtype(key_bytes, members))
    start = 0
    for number, (source, part) in enumerate(parts):
        rows = index[start : start + len(part.rows)]
        for name in part.rows.dtype.names or ():
            rows[name] = part.rows[name]
        rows["shard"], rows["source"] = number, source
        start += len(rows)
    return index


def members_of(rows: NDArray[np.void]) -> list[str]:
    """The names of the members that an index knows."""
    return [name for name in rows.dtype.names or () if name not in COLUMNS]


def read_at(handle: int, place: tuple[int, int], limit: int | None = None) -> bytes:
    """The first `limit` bytes of what lies at (offset, bytes) of an open file."""
    offset, size = place
    return os.pread(handle, size if limit is None else min(size, limit), offset)


def _open(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except tarfile.TarError as error:
        raise UnusableShard(f"{path} is no plain tar ({error})") from None


def _split(name: str) -> tuple[str, str]:
    """Key and member, as WebDataset has them: parted at the first dot of the file's name."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, member = file.partition(".")
    return folder + slash + stem, member.lower()


def _broken(path: Path, byte: int, why: object) -> str:
    return f"{path} is broken at byte {byte} ({why}): fetch it again or take it away"


def _check_caption(handle: int, sample: TarSample) -> None:
    if len(sample.key.encode(errors="surrogateescape")) > MAX_KEY_BYTES:
        raise Unusable("key too long")
    try:
        caption = read_at(handle, sample.members.get(CAPTION_MEMBER, (0, 0))).decode()
    except UnicodeDecodeError:
        raise Unusable("caption is not UTF-8") from None
    if not caption.strip():
        raise Unusable("no caption")


def _size(handle: int, sample: TarSample, min_side_px: int) -> tuple[int, int]:
    place = next((sample.members[name] for name in IMAGE_MEMBERS if name in sample.members), None)
    if place is None:
        raise Unusable("no picture")
    try:
        size = image_size(read_at(handle, place, HEAD_BYTES))
    except Unusable:
        if place[1] <= HEAD_BYTES:
            raise
        size = image_size(read_at(handle, place))
    check_side(size, min_side_px)
    return size


def check_side(size: tuple[int, int], min_side_px: int) -> None:
    """Unusable if the shorter side of (width, height) is less than a source asks for."""
    if min(size) < min_side_px:
        raise Unusable(f"less than {min_side_px} pixels a side", f"{size[0]} x {size[1]}")


def _rows(samples: Sequence[TarSample], sizes: Sequence[tuple[int, int]]) -> NDArray[np.void]:
    members = sorted({name for sample in samples for name in sample.members})
    if len(members) > MAX_MEMBERS:
        raise UnusableShard(f"{len(members)} kinds of members are no WebDataset")
    keys = [sample.key.encode(errors="surrogateescape") for sample in samples]
    rows = np.zeros(len(samples), _dtype(max(map(len, keys), default=1), members))
    rows["key"] = keys
    rows["width"] = [width for width, _ in sizes]
    rows["height"] = [height for _, height in sizes]
    for name in members:
        rows[name] = [sample.members.get(name, (0, 0)) for sample in samples]
    return rows


def _dtype(key_bytes: int, members: Sequence[str]) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("key", f"S{key_bytes}"),
            ("shard", "<u4"),
            ("source", "u1"),
            ("width", "<u4"),
            ("height", "<u4"),
            *((name, "<u8", (2,)) for name in members),
        ]
    )
