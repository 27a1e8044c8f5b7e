"""WebDataset tars with an index, so that any sample can be read by its number.

A folder of shards is published like every other folder here (cluster/run_folder.py):

    00000.tar 00001.tar …   ordinary WebDataset shards, readable by any tool; or none, where the
                            manifest names tars that lie elsewhere
    index.npy               one row a sample: key, shard, source, width, height, its members' places
    manifest.json           the shards, how many samples of which source, who was left out and why
"""

import io
import json
import os
import shutil
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cluster.run_folder import BrokenFolder, publish, read_manifest
from trainer.data.config import Truth
from trainer.data.images import IMAGE_MEMBERS, decode_image, decode_mask
from trainer.data.tars import (
    CAPTION_MEMBER,
    INFO_MEMBER,
    Part,
    join_parts,
    members_of,
    write_part,
)
from trainer.data.words import Sample, Word

INDEX = "index.npy"
MASK_MEMBER = "mask.png"
# The characters' labels (characters.py); MARIO's are in half the picture's resolution.
CHARSEG_MEMBER = "charseg.png"
SAMPLES_PER_SHARD = 1024
# Of ten thousands of shards; a process may have 1024 files open.
MAX_OPEN_SHARDS = 256
WORDS_LOOKED_AT = 100


class ShardFolder:
    """Random access to the samples of a published folder of shards.

    `pictures=False` opens prompts, which have none.
    """

    def __init__(self, folder: Path, *, pictures: bool = True) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        self.shards = [folder / shard["path"] for shard in self.manifest["shards"]]
        # Mapped, not read: the ranks of a node share its pages.
        self.index = np.load(folder / INDEX, mmap_mode="r")
        self.image_members = [m for m in IMAGE_MEMBERS if m in self.manifest["members"]]
        if pictures and not self.image_members:
            only = ", ".join(self.manifest["members"])
            raise ValueError(f"{folder} holds no pictures: its samples have only {only}")
        self._handles: dict[int, int] = {}
        weakref.finalize(self, _close, self._handles)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}  # open files do not travel to another process

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Width and height of every picture as it is decoded: samples x 2, pixels."""
        return np.stack([self.index["width"], self.index["height"]], axis=1).astype(np.int64)

    @property
    def has_text_truth(self) -> bool:
        """Some of the samples come with the words or a mask of the letters in their pictures."""
        return any(source["knows_text"] for source in self.manifest["sources"])

    def knows(self, truth: Truth) -> bool:
        """Some of the samples tell this of the text in their pictures; of lines, the first ones."""
        if truth == "characters":
            return CHARSEG_MEMBER in self.manifest["members"]
        return (truth == "masks" and self.has_text_truth) or self._knows_words()

    def _knows_words(self) -> bool:
        for number in range(min(WORDS_LOOKED_AT, len(self))):
            with suppress(OSError, ValueError):
                if self.words(number):
                    return True
        return False

    def key(self, number: int) -> str:
        """The name of a sample, for people: shard and key."""
        row = self.index[number]
        shard = self.shards[int(row["shard"])].name
        return f"{self.folder.name}/{shard}:{bytes(row['key']).decode(errors='replace')}"

    def has(self, number: int, member: str) -> bool:
        """A sample has this member."""
        return member in self.manifest["members"] and bool(self.index[number][member][1])

    def read(self, number: int, member: str) -> bytes:
        """The bytes of one member of a sample; OSError if it has none or the shard ends before."""
        if not self.has(number, member):
            raise OSError(f"{self.key(number)} has no {member}")
        row = self.index[number]
        offset, size = (int(value) for value in row[member])
        # With its own offset: processes that were forked from us share the handle.
        data = os.pread(self._handle(int(row["shard"])), size, offset)
        if len(data) != size:
            raise OSError(f"{self.key(number)} ends after {len(data)} of {size} bytes")
        return data

    def image(self, number: int, shrink: float = 1.0) -> Image.Image:
        """The picture of a sample, RGB and upright; OSError or ValueError if there is none.

        It may be decoded up to `shrink` times smaller.
        """
        for member in self.image_members:
            if self.has(number, member):
                return decode_image(self.read(number, member), shrink)
        raise OSError(f"{self.key(number)} has no picture")

    def caption(self, number: int) -> str:
        """The caption of a sample."""
        return self.read(number, CAPTION_MEMBER).decode()

    def words(self, number: int) -> list[Word]:
        """The words that a picture shows, as far as they are known, in its pixels."""
        if not self.has(number, INFO_MEMBER):
            return []
        info = json.loads(self.read(number, INFO_MEMBER))
        words = info.get("words", []) if isinstance(info, dict) else []
        return [_word(word, self.key(number)) for word in words]

    def mask(self, number: int) -> Image.Image | None:
        """Where the letters are: L, the size of the picture, 255 on text; None if unknown.

        The ink itself where it is known, else the characters' segmentation, else the words' boxes.
        """
        if self.has(number, MASK_MEMBER):
            return self._labels(number, MASK_MEMBER)
        if characters := self.characters(number):
            return characters.point([0] + [255] * 255)
        row = self.index[number]
        words = self.words(number)
        return _draw_boxes(words, (int(row["width"]), int(row["height"]))) if words else None

    def characters(self, number: int) -> Image.Image | None:
        """Which character each pixel shows: L, the size of the picture; None if unknown.

        0 is none; else 1 more than the character's place in CHARACTERS (characters.py).
        """
        if not self.has(number, CHARSEG_MEMBER):
            return None
        return self._labels(number, CHARSEG_MEMBER)

    def _labels(self, number: int, member: str) -> Image.Image:
        row = self.index[number]
        labels = decode_mask(self.read(number, member))
        return labels.resize((int(row["width"]), int(row["height"])), Image.Resampling.NEAREST)

    def _handle(self, shard: int) -> int:
        if shard not in self._handles:
            if len(self._handles) >= MAX_OPEN_SHARDS:
                os.close(self._handles.pop(next(iter(self._handles))))
            self._handles[shard] = os.open(self.shards[shard], os.O_RDONLY)
        return self._handles[shard]


def write_shards(
    samples: Iterable[Sample],
    folder: Path,
    source: Mapping[str, Any],
    samples_per_shard: int = SAMPLES_PER_SHARD,
) -> None:
    """Write samples into shards, index them and publish the folder, all or nothing."""
    keyed = ((f"{number:09d}", drawn_members(sample)) for number, sample in enumerate(samples))
    parts: list[tuple[int, Part]] = []
    with staging_for(folder) as staging:
        while chunk := list(islice(keyed, samples_per_shard)):
            part = write_part(staging / f"{len(parts):05d}.tar", chunk, knows_text=True)
            parts.append((0, part))
        publish_shards(staging, folder, parts, source)


@contextmanager
def staging_for(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, gone at the end unless it was published there."""
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish_shards(
    staging: Path,
    folder: Path,
    parts: Sequence[tuple[int, Part]],
    source: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Index the shards and publish the folder; its manifest.

    Each part comes with the number of its source, which is a place among the keys of `source`.
    `inputs` are the files that the sources were read from, as they were.
    """
    # Of tars that lie elsewhere also those that nothing was taken from: they were looked at.
    taken = [(n, part) for n, part in parts if len(part.rows) or Path(part.shard).is_absolute()]
    if not any(len(part.rows) for _, part in taken):
        raise ValueError(f"no sample is fit to train on: {describe_left_out(_sum(parts, None))}")
    index = join_parts(taken)
    np.save(staging / INDEX, index)
    facts = {
        "samples": len(index),
        "members": members_of(index),
        "source": dict(source),
        "sources": [_source_facts(parts, number, name) for number, name in enumerate(source)],
        "inputs": dict(inputs or {}),
        "shards": [_shard_facts(staging, part.shard) for _, part in taken],
    }
    publish(staging, folder, facts, latest=False)
    return facts


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Reasons and counts in one line, the most frequent first."""
    reasons = sorted(left_out.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons) or "the source is empty"


def _source_facts(parts: Sequence[tuple[int, Part]], number: int, name: str) -> dict[str, Any]:
    mine = [part for source, part in parts if source == number]
    return {
        "name": name,
        "samples": sum(len(part.rows) for part in mine),
        "left_out": dict(_sum(parts, number)),
        "knows_text": any(part.knows_text for part in mine),
    }


def _sum(parts: Sequence[tuple[int, Part]], number: int | None) -> Counter[str]:
    """The samples left out of one source, or of all."""
    total: Counter[str] = Counter()
    for source, part in parts:
        if number in (source, None):
            total.update(part.left_out)
    return total


def _shard_facts(staging: Path, shard: str) -> dict[str, Any]:
    return {"path": shard, "bytes": (staging / shard).stat().st_size}  # an absolute path stays


def drawn_members(sample: Sample) -> dict[str, bytes]:
    """The members of a drawn sample in its shard."""
    members = {
        "png": _png(sample.image),
        CAPTION_MEMBER: sample.caption.encode(),
        INFO_MEMBER: json.dumps({"words": [asdict(word) for word in sample.words]}).encode(),
        MASK_MEMBER: _png(sample.mask),
    }
    if sample.characters is not None:
        members[CHARSEG_MEMBER] = _png(sample.characters)
    return members


def _word(word: Any, key: str) -> Word:
    try:
        left_top, right_top, right_bottom, left_bottom = ((int(x), int(y)) for x, y in word["box"])
        return Word(text=str(word["text"]), box=(left_top, right_top, right_bottom, left_bottom))
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{key} has a word that is no text with a box of 4 corners") from None


def _draw_boxes(words: Sequence[Word], size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    for word in words:
        ImageDraw.Draw(mask).polygon(word.box, fill=255)
    return mask


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _close(handles: dict[int, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(folder)
    except BrokenFolder:
        raise ValueError(
            f"{folder} holds no indexed shards: make them with `python -m trainer.data build`"
        ) from None
    if "shards" not in manifest:
        raise ValueError(f"{folder} was built by an older version: remove it and build it again")
    return manifest
