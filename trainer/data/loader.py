"""Batches for one rank, in the order that the seed fixed, whatever is broken in the shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.data.buckets import assign_buckets, bucket_sizes
from trainer.data.config import DataConfig
from trainer.data.framing import Frame, Size, choose_frame, frame_chance
from trainer.data.order import Order
from trainer.data.pixels import framed_image, framed_mask, spare_detail
from trainer.data.shards import ShardFolder

# So many broken samples in a row are no accident but a broken folder.
MAX_BROKEN_IN_A_ROW = 100


class Item(NamedTuple):
    """One sample as it is trained on."""

    position: int
    image: Tensor  # uint8, 3 height width
    mask: Tensor | None  # float, 1 height width
    frame: Frame
    caption: str
    broken: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one rank computes one forward pass on."""

    positions: list[int]
    """Places in the run's stream of samples: the seeds of their noise."""
    images: Tensor
    """uint8 RGB, batch 3 height width."""
    masks: Tensor | None
    """float, batch 1 height width: 1 where there is text; zeros for a sample that has no mask. None
    if they were not asked for."""
    sizes: Tensor
    """int64, batch 6, in SDXL's order: the picture's height and width, how much was cropped at the
    top and left, the frame's height and width."""
    captions: list[str]
    broken: list[str]
    """Names of samples that could not be read and were passed over for the next one."""


class Stream(Dataset[Item]):
    """The endless stream of a folder's samples, by position.

    A sample that cannot be read is passed over for the next one of its bucket, and named.
    """

    def __init__(
        self, shards: ShardFolder, config: DataConfig, *, seed: int, global_batch: int, masks: bool
    ) -> None:
        self.shards = shards
        self.config = config
        self.seed = seed
        self.masks = masks
        self.sizes = shards.sizes
        self.frames = bucket_sizes(config)
        buckets = assign_buckets(self.sizes, config)
        self.order = Order(buckets, seed=seed, global_batch=global_batch)

    def __getitem__(self, position: int) -> Item:
        place = self.order.place(position)
        broken: list[str] = []
        while len(broken) < MAX_BROKEN_IN_A_ROW:
            number = self.order.sample(place._replace(turn=place.turn + len(broken)))
            frame = self._frame(number, place.bucket, position)
            try:
                picture = self.shards.image(number, spare_detail(frame))
                image = framed_image(picture, frame)
                mask = self._mask(number, frame) if self.masks else None
                caption = self.shards.caption(number)
            except (OSError, ValueError) as error:
                broken.append(f"{self.shards.key(number)} ({error})")
            else:
                return Item(position, image, mask, frame, caption, tuple(broken))
        raise ValueError(f"{len(broken)} samples in a row cannot be read, the last is {broken[-1]}")

    def _frame(self, number: int, bucket: int, position: int) -> Frame:
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


def open_batches(
    shards: ShardFolder,
    config: DataConfig,
    positions: Iterator[list[int]],
    *,
    seed: int,
    global_batch: int,
    masks: bool = False,
) -> Iterator[Batch]:
    """The batches at the given positions, framed as `config` says, read ahead by its workers.

    The positions of one batch are of one step: `global_batch` positions from a multiple of it on.
    """
    loader = DataLoader(
        Stream(shards, config, seed=seed, global_batch=global_batch, masks=masks),
        batch_sampler=positions,
        num_workers=config.workers,
        collate_fn=_collate,
    )
    return iter(loader)


def _collate(items: Sequence[Item]) -> Batch:
    masks = [item.mask for item in items if item.mask is not None]
    return Batch(
        positions=[item.position for item in items],
        images=torch.stack([item.image for item in items]),
        masks=torch.stack(masks) if masks else None,
        sizes=torch.tensor([item.frame.conditioning for item in items]),
        captions=[item.caption for item in items],
        broken=[name for item in items for name in item.broken],
    )
