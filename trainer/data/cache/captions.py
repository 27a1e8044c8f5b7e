"""Encoding captions: each one once, however many samples share it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.cache.work import Encoded, Rows, Work, split_rows
from trainer.data.shards import ShardFolder
from trainer.models.family import Family

EMPTY = -1  # in place of a sample's number: the empty caption
UNREADABLE = -2
THREADS = 16  # reads of a network's file system take milliseconds each, and can wait together
CAPTIONS_PER_READ = 4096
CAPTIONS_PER_PASS = 64
BROKEN = (OSError, ValueError)

Progress = Callable[[Iterable[NDArray[np.uint64]], int], Iterable[NDArray[np.uint64]]]


def plan_captions(family: Family, shards: ShardFolder, progress: Progress) -> Work:
    """Everything to be done about the captions, which are all read for it."""
    bearers = find_bearers(_read_digests(shards, progress))
    numbers = np.concatenate([[EMPTY], np.unique(bearers[bearers >= 0])])
    rows = np.stack([numbers, np.zeros_like(numbers)], axis=1)
    (empty,) = encode_captions(family, shards, [rows[:1]])
    return Work(
        parts=split_rows(rows, sum(tensor.nbytes for tensor in empty.tensors.values())),
        encode=partial(encode_captions, family, shards),
        rows_per_pass=CAPTIONS_PER_PASS,
        sides=1,
        bearers=bearers,
        broken=dict.fromkeys(np.flatnonzero(bearers < 0).tolist(), "its caption cannot be read"),
    )


def find_bearers(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each caption the first that is the same, from their digests (captions 2).

    UNREADABLE where the digest is zero.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # keeps the order of the same
    ordered = digests[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    bearers = np.empty(len(order), np.int64)
    bearers[order] = order[is_first][np.cumsum(is_first) - 1]
    bearers[~digests.any(axis=1)] = UNREADABLE
    return bearers


def encode_captions(
    family: Family, shards: ShardFolder, passes: Iterable[Rows]
) -> Iterator[Encoded]:
    """The fields of a Conditioning for the captions of each pass."""
    for rows in passes:
        captions, broken = [], {}
        for place, number in enumerate(rows[:, 0].tolist()):
            try:
                captions.append("" if number == EMPTY else shards.caption(number))
            except BROKEN as error:
                broken[place] = str(error)
        yield Encoded(_embed(family, captions) if captions else {}, broken)


@torch.no_grad()
def _embed(family: Family, captions: list[str]) -> dict[str, Tensor]:
    fields = family.encode_tokens(family.tokenize(captions))._asdict()
    return {name: tensor.cpu() for name, tensor in fields.items() if tensor is not None}


def _read_digests(shards: ShardFolder, progress: Progress) -> NDArray[np.uint64]:
    starts = range(0, len(shards), CAPTIONS_PER_READ)
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(partial(_digests_from, shards.folder), starts)
        return np.concatenate(list(progress(read, len(starts))))


def _digests_from(folder: Path, start: int) -> NDArray[np.uint64]:
    """Digests (captions 2) of the captions from a number on; zero where one cannot be read."""
    shards = ShardFolder(folder)  # each thread has its own open files
    numbers = range(start, min(start + CAPTIONS_PER_READ, len(shards)))
    digests = np.zeros((len(numbers), 2), np.uint64)
    for row, number in enumerate(numbers):
        try:
            caption = shards.caption(number).encode()
        except BROKEN:
            continue
        digests[row] = np.frombuffer(hashlib.sha256(caption).digest()[:16], np.uint64)
    return digests
