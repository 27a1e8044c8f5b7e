"""Batches for one rank, in the order that the seed fixed, whatever is broken in the shards."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.data.buckets import LEFT_OUT, assign_buckets, bucket_sizes
from trainer.data.cache.reading import Cache, stack_rows
from trainer.data.characters import UNKNOWN
from trainer.data.config import DataConfig, Truth
from trainer.data.framing import Frame, Size, choose_frame, frame_chance
from trainer.data.order import Order
from trainer.data.pixels import framed_image, framed_labels, framed_mask, spare_detail
from trainer.data.shards import ShardFolder

# So many broken samples in a row are no accident but a broken folder.
MAX_BROKEN_IN_A_ROW = 100

# What ShardFolder raises of a sample that cannot be read.
BROKEN = (OSError, ValueError)


class TextLine(NamedTuple):
    """Text that a picture shows, and where."""

    text: str
    polygon: NDArray[np.float64]
    """4 corners x 2 (x, y) in pixels of the frame, clockwise from the text's own top left; they may
    lie outside of it."""


class Item(NamedTuple):
    """One sample as it is trained on."""

    position: int
    image: Tensor | None  # uint8, 3 height width; None where there is a posterior
    posterior: Tensor | None  # 2 channels h w
    mask: Tensor | None  # float, 1 height width
    lines: list[TextLine] | None
    characters: Tensor | None  # int64, height width
    frame: Frame
    caption: str  # empty where there is text
    text: dict[str, Tensor]  # embeddings of the caption; empty where they are not cached
    broken: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one rank computes one forward pass on."""

    positions: list[int]
    """Places in the run's stream of samples: the seeds of their noise."""
    images: Tensor | None
    """uint8 RGB, batch 3 height width; None where `posterior` comes from a cache, and where there
    are only prompts."""
    masks: Tensor | None
    """float, batch 1 height width: 1 where there is text; zeros for a sample that has no mask. None
    if they were not asked for."""
    sizes: Tensor
    """int64, batch 6, in SDXL's order: the picture's height and width, how much was cropped at the
    top and left, the frame's height and width."""
    captions: list[str]
    """An empty list where `text` comes from a cache."""
    broken: list[str]
    """Names of samples that could not be read and were passed over for the next one."""
    lines: list[list[TextLine]] | None = None
    """The lines of text in each picture that are known; None if they were not asked for."""
    characters: Tensor | None = None
    """int64, batch height width: 0 where there is no character, else 1 more than its number in
    CHARACTERS; UNKNOWN all over a sample that does not tell. None if they were not asked for."""
    posterior: Tensor | None = None
    """Mean and deviation of the autoencoder's posterior, batch 2 channels h w."""
    text: Mapping[str, Tensor] | None = None
    """The fields of a Conditioning: a row for each sample, and one more for the empty caption."""

    def take(self, rows: Sequence[int]) -> "Batch":
        """These samples of the batch, without the empty caption of a cache."""
        picked = list(rows)

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[picked]

        return Batch(
            positions=[self.positions[row] for row in picked],
            images=of(self.images),
            masks=of(self.masks),
            lines=[self.lines[row] for row in picked] if self.lines is not None else None,
            characters=of(self.characters),
            sizes=self.sizes[picked],
            captions=[self.captions[row] for row in picked] if self.captions else [],
            broken=self.broken,
            posterior=of(self.posterior),
            text={name: text[picked] for name, text in self.text.items()} if self.text else None,
        )


class Stream(Dataset[Item]):
    """The endless stream of a folder's samples, by position.

    A sample that cannot be read is passed over for the next one of its bucket, and named. Those
    numbered in `held_out` are in no place.
    """

    def __init__(
        self,
        shards: ShardFolder,
        config: DataConfig,
        *,
        seed: int,
        global_batch: int,
        truth: Collection[Truth] = (),
        held_out: NDArray[np.int64] | None = None,
        cache: Cache | None = None,
        drawn: Size | None = None,
    ) -> None:
        """`drawn`: pictures of this size are drawn of the captions, and none are read."""
        self.shards = shards
        self.config = config
        self.seed = seed
        self.truth = truth
        self.cache = cache
        self.drawn = drawn
        self.sizes = np.full((len(shards), 2), drawn) if drawn else shards.sizes
        self.frames = bucket_sizes(config)
        buckets = assign_buckets(self.sizes, config)
        if held_out is not None:
            buckets[held_out] = LEFT_OUT
        self.order = Order(buckets, seed=seed, global_batch=global_batch)

    def __getitem__(self, position: int) -> Item:
        place = self.order.place(position)
        broken: list[str] = []
        while len(broken) < MAX_BROKEN_IN_A_ROW:
            number = self.order.sample(place._replace(turn=place.turn + len(broken)))
            try:
                item = self.read(number, place.bucket, position)
            except BROKEN as error:
                broken.append(f"{self.shards.key(number)} ({error})")
            else:
                return item._replace(broken=tuple(broken))
        raise ValueError(f"{len(broken)} samples in a row cannot be read, the last is {broken[-1]}")

    def number(self, position: int) -> int:
        """The number of the sample at a position, if it can be read."""
        return self.order.sample(self.order.place(position))

    def read(self, number: int, bucket: int, position: int) -> Item:
        """Sample `number` as it is trained on at `position`; one of BROKEN if it cannot be read."""
        frame = self.frame(number, bucket, position)
        text = self.cache.read_text(number) if self.cache else {}
        return Item(
            position=position,
            image=None if self.cache or self.drawn else self.picture(number, frame),
            posterior=self.cache.read_posterior(number, frame.flip) if self.cache else None,
            mask=self._mask(number, frame) if "masks" in self.truth else None,
            lines=self._lines(number, frame) if "lines" in self.truth else None,
            characters=self._characters(number, frame) if "characters" in self.truth else None,
            frame=frame,
            caption="" if text else self.shards.caption(number),
            text=text,
            broken=(),
        )

    def picture(self, number: int, frame: Frame) -> Tensor:
        """The picture of a sample in its frame; one of BROKEN if it cannot be read."""
        return framed_image(self.shards.image(number, spare_detail(frame)), frame)

    def frame(self, number: int, bucket: int, position: int) -> Frame:
        """Where the picture of a sample is cut when it is trained on at `position`."""
        source = Size(*map(int, self.sizes[number]))
        return choose_frame(
            source,
            self.frames[bucket] if self.frames else source,
            crop=self.config.crop,
            flip=self.config.flip,
            chance=frame_chance(self.seed, position),
        )

    def _mask(self, number: int, frame: Frame) -> Tensor:
        mask = self.shards.mask(number)
        if mask is None:
            return torch.zeros(1, frame.size.height, frame.size.width)
        return framed_mask(mask, frame)

    def _lines(self, number: int, frame: Frame) -> list[TextLine]:
        words = self.shards.words(number)
        return [TextLine(word.text, frame.move(word.box)) for word in words]

    def _characters(self, number: int, frame: Frame) -> Tensor:
        labels = self.shards.characters(number)
        if labels is None:
            return torch.full((frame.size.height, frame.size.width), UNKNOWN)
        return framed_labels(labels, frame)


def open_batches(stream: Stream, positions: Iterator[list[int]]) -> Iterator[Batch]:
    """The batches at the given positions of a stream, read ahead by its config's workers.

    The positions of one batch are of one step: `global_batch` positions from a multiple of it on.
    """
    empty = stream.cache.read_empty_caption() if stream.cache else {}
    loader = DataLoader(
        stream,
        batch_sampler=positions,
        num_workers=stream.config.workers,
        collate_fn=partial(_collate, empty=empty),
    )
    return iter(loader)


def fixed_batches(
    shards: ShardFolder,
    config: DataConfig,
    numbers: NDArray[np.int64],
    batch: int,
    truth: Collection[Truth] = (),
) -> list[Batch]:
    """These samples in batches of at most `batch`, each of one bucket, cropped at the centre.

    Their numbers are their positions. One that cannot be read is left out.
    """
    plain = replace(config, crop="center", flip=0.0)
    stream = Stream(shards, plain, seed=0, global_batch=1, truth=truth)
    items: dict[int, list[Item]] = defaultdict(list)
    for number in map(int, numbers):
        bucket = int(stream.order.buckets[number])
        if bucket != LEFT_OUT:
            with suppress(*BROKEN):
                items[bucket].append(stream.read(number, bucket, number))
    return [
        _collate(group[first : first + batch], empty={})
        for group in items.values()
        for first in range(0, len(group), batch)
    ]


def _collate(items: Sequence[Item], empty: dict[str, Tensor]) -> Batch:
    texts = [item.text for item in items if item.text]
    return Batch(
        positions=[item.position for item in items],
        images=_stack([item.image for item in items]),
        masks=_stack([item.mask for item in items]),
        lines=[item.lines for item in items if item.lines is not None] or None,
        characters=_stack([item.characters for item in items]),
        sizes=torch.tensor([item.frame.conditioning for item in items]),
        captions=[item.caption for item in items if not item.text],
        broken=[name for item in items for name in item.broken],
        posterior=_stack([item.posterior for item in items]),
        text=stack_rows([*texts, empty]) if texts else None,
    )


def _stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(there) if there else None
