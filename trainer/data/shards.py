"""WebDataset tars with an index, so that any sample can be read by its number.

A folder of shards is published like every other folder here (cluster/run_folder.py):

    00000.tar 00001.tar …   ordinary WebDataset shards, readable by any tool
    index.npy               one row a sample: key, shard, and where each of its members lies
    manifest.json           how many samples, their members, what they were made of, sizes, hashes
"""

import io
import json
import os
import shutil
import tarfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray
from PIL import Image

from cluster.run_folder import BrokenFolder, publish, read_manifest
from trainer.data.words import Sample

INDEX = "index.npy"
IMAGE_MEMBERS = ("png", "jpg", "jpeg", "webp")
CAPTION_MEMBER = "txt"


class ShardFolder:
    """Random access to the samples of a published folder of shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        # Mapped, not read: the ranks of a node share its pages.
        self.index = np.load(folder / INDEX, mmap_mode="r")
        self.image_member = _image_member(self.manifest["members"], folder)
        self._handles: dict[int, int] = {}
        weakref.finalize(self, _close, self._handles)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}  # open files do not travel to another process

    def key(self, number: int) -> str:
        """The name of a sample, for people: shard and key."""
        row = self.index[number]
        return f"{self.folder.name}/{int(row['shard']):05d}.tar:{bytes(row['key']).decode()}"

    def read(self, number: int, member: str) -> bytes:
        """The bytes of one member of a sample; OSError if the shard ends before."""
        row = self.index[number]
        offset, size = (int(value) for value in row[member])
        # With its own offset: processes that were forked from us share the handle.
        data = os.pread(self._handle(int(row["shard"])), size, offset)
        if len(data) != size:
            raise OSError(f"{self.key(number)} ends after {len(data)} of {size} bytes")
        return data

    def image(self, number: int) -> Image.Image:
        """The picture of a sample, RGB; OSError if it cannot be decoded."""
        return Image.open(io.BytesIO(self.read(number, self.image_member))).convert("RGB")

    def caption(self, number: int) -> str:
        """The caption of a sample."""
        return self.read(number, CAPTION_MEMBER).decode()

    def _handle(self, shard: int) -> int:
        if shard not in self._handles:
            self._handles[shard] = os.open(self.folder / f"{shard:05d}.tar", os.O_RDONLY)
        return self._handles[shard]


def write_shards(
    samples: Iterable[Sample],
    folder: Path,
    source: Mapping[str, Any],
    samples_per_shard: int = 4096,
) -> None:
    """Write samples into shards, index them and publish the folder, all or nothing."""
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    writer: Any = None
    for number, sample in enumerate(samples):
        if number % samples_per_shard == 0:
            if writer is not None:
                writer.close()
            shard = staging / f"{number // samples_per_shard:05d}.tar"
            # A fixed time, so that equal samples make equal shards.
            writer = webdataset.TarWriter(str(shard), mtime=0)
        writer.write(_members(f"{number:09d}", sample))
    if writer is not None:
        writer.close()
    index = index_shards(staging)
    np.save(staging / INDEX, index)
    members = [name for name in index.dtype.names or () if name not in ("key", "shard")]
    facts = {"samples": len(index), "members": members, "source": dict(source)}
    publish(staging, folder, facts)


def index_shards(folder: Path) -> NDArray[np.void]:
    """A row for every sample in the tars of `folder`, in the order of the tars."""
    rows = [row for shard in sorted(folder.glob("*.tar")) for row in _samples_in(shard)]
    if not rows:
        raise ValueError(f"{folder} holds no sample")
    members = [name for name in rows[0] if name not in ("key", "shard")]
    key_bytes = max(len(row["key"]) for row in rows)
    dtype = np.dtype(
        [("key", f"S{key_bytes}"), ("shard", "<u4"), *((name, "<u8", (2,)) for name in members)]
    )
    index = np.zeros(len(rows), dtype)
    for name in dtype.names or ():
        index[name] = [row[name] for row in rows]
    return index


def _samples_in(shard: Path) -> Iterator[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, name = member.name.partition(".")
            row = rows.setdefault(key, {"key": key.encode(), "shard": int(shard.stem)})
            row[name] = (member.offset_data, member.size)
    yield from rows.values()


def _close(handles: dict[int, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def _members(key: str, sample: Sample) -> dict[str, Any]:
    return {
        "__key__": key,
        "png": _png(sample.image),
        CAPTION_MEMBER: sample.caption,
        "json": json.dumps({"words": [asdict(word) for word in sample.words]}).encode(),
        "mask.png": _png(sample.mask),
    }


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(folder)
    except BrokenFolder:
        raise ValueError(
            f"{folder} holds no indexed shards: make them with `python -m trainer.data build`"
        ) from None


def _image_member(members: list[str], folder: Path) -> str:
    for name in IMAGE_MEMBERS:
        if name in members:
            return name
    raise ValueError(f"{folder} holds no pictures: its samples have only {', '.join(members)}")
