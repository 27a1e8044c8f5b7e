"""Batches for one rank, in the order that the seed fixed, whatever is broken in the shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.data.order import sample_at
from trainer.data.shards import ShardFolder

# So many broken samples in a row are no accident but a broken folder.
MAX_BROKEN_IN_A_ROW = 100


class Item(NamedTuple):
    """One sample as it is trained on."""

    position: int
    image: Tensor  # uint8, 3 height width
    caption: str
    broken: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one rank computes one forward pass on."""

    positions: list[int]
    """Places in the run's stream of samples: the seeds of their noise."""
    images: Tensor
    """uint8 RGB, batch 3 height width."""
    captions: list[str]
    broken: list[str]
    """Names of samples that could not be read and were passed over for the next one."""


class Stream(Dataset[Item]):
    """The endless stream of a folder's samples, by position.

    A sample that cannot be read is passed over for the next one in the order, and named.
    """

    def __init__(self, shards: ShardFolder, seed: int) -> None:
        self.shards = shards
        self.seed = seed

    def __getitem__(self, position: int) -> Item:
        broken: list[str] = []
        while len(broken) < MAX_BROKEN_IN_A_ROW:
            number = sample_at(position + len(broken), seed=self.seed, samples=len(self.shards))
            try:
                image, caption = self.shards.image(number), self.shards.caption(number)
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises on bad files
                broken.append(f"{self.shards.key(number)} ({error})")
            else:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
                return Item(position, pixels, caption, tuple(broken))
        raise ValueError(f"{len(broken)} samples in a row cannot be read, the last is {broken[-1]}")


def open_batches(
    shards: ShardFolder, positions: Iterator[list[int]], *, seed: int, workers: int
) -> Iterator[Batch]:
    """The batches at the given positions, read ahead by `workers` processes."""
    loader = DataLoader(
        Stream(shards, seed),
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=_collate,
    )
    return iter(loader)


def _collate(items: Sequence[Item]) -> Batch:
    sizes = {tuple(item.image.shape[1:]) for item in items}
    if len(sizes) > 1:
        raise ValueError(f"the samples differ in size (height, width): {sorted(sizes)}")
    return Batch(
        positions=[item.position for item in items],
        images=torch.stack([item.image for item in items]),
        captions=[item.caption for item in items],
        broken=[name for item in items for name in item.broken],
    )
