"""Encoding pictures: the posterior of the autoencoder, of which training draws its latents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.data.cache.work import Encoded, Part, Rows, Work, split_rows
from trainer.data.config import DataConfig
from trainer.data.framing import Size
from trainer.data.loader import BROKEN, Stream
from trainer.data.shards import ShardFolder
from trainer.models.family import Family


def plan_pictures(config: DataConfig, family: Family, shards: ShardFolder, batch: int) -> Work:
    """Everything to be done about the pictures; ValueError if the model cannot take their size."""
    pictures = Pictures(shards, config)

    def encode(passes: Iterable[Rows]) -> Iterator[Encoded]:
        loader: DataLoader[Tensor | str] = DataLoader(
            pictures,
            batch_sampler=map(list, passes),
            num_workers=config.workers,
            collate_fn=list,
        )
        return (_encode(family, answers) for answers in loader)

    return Work(
        parts=_parts(pictures, family),
        encode=encode,
        rows_per_pass=batch,
        sides=len(pictures.streams),
        bearers=np.arange(len(shards)),
    )


class Pictures(Dataset[Tensor | str]):
    """Every picture as training sees it, by its row; or why it cannot be read."""

    def __init__(self, shards: ShardFolder, config: DataConfig) -> None:
        self.streams = [
            Stream(shards, replace(config, flip=flip), seed=0, global_batch=1)
            for flip in ((0.0, 1.0) if config.flip else (0.0,))
        ]
        self.buckets = self.streams[0].order.buckets

    def __getitem__(self, row: Rows) -> Tensor | str:
        number, side = map(int, row)
        stream = self.streams[side]
        try:
            return stream.picture(number, stream.frame(number, int(self.buckets[number]), 0))
        except BROKEN as error:
            return str(error)

    def size(self, bucket: int) -> Size:
        """Of the frame of a bucket that has pictures."""
        first = int(np.flatnonzero(self.buckets == bucket)[0])
        return self.streams[0].frame(first, bucket, 0).size


def _parts(pictures: Pictures, family: Family) -> list[Part]:
    parts: list[Part] = []
    sides = range(len(pictures.streams))
    for bucket in np.unique(pictures.buckets[pictures.buckets >= 0]).tolist():
        numbers = np.flatnonzero(pictures.buckets == bucket)
        both = np.meshgrid(numbers, sides, indexing="ij")
        rows = np.stack(both, axis=-1).reshape(-1, 2).astype(np.int64)
        parts += split_rows(rows, _row_bytes(family, pictures.size(bucket)), len(parts))
    return parts


def _row_bytes(family: Family, size: Size) -> int:
    scale = family.latent_scale
    if size.width % scale or size.height % scale:
        raise ValueError(
            f"the samples are {size.width} x {size.height} pixels: this model takes multiples of "
            f"{scale}"
        )
    latents = size.width // scale * (size.height // scale) * family.vae.config.latent_channels
    return 2 * int(latents) * int(family.vae.dtype.itemsize)


def _encode(family: Family, answers: Sequence[Tensor | str]) -> Encoded:
    images = [answer for answer in answers if isinstance(answer, Tensor)]
    broken = {place: answer for place, answer in enumerate(answers) if isinstance(answer, str)}
    if not images:
        return Encoded({}, broken)
    mean, std = family.encode_posterior(torch.stack(images))
    return Encoded({"posterior": torch.stack([mean, std], dim=1).cpu()}, broken)
