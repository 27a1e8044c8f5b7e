"""Which sample stands where: the whole order of a run, from its seed alone.

A run reads one endless stream. Epoch e of it is `permutation(seed, e)`; step s takes the positions
s * global_batch and on, whatever the number of ranks, so a run that resumes needs to know its step
alone.

With one bucket, position p is simply sample `permutation(seed, e)[p % samples]`, e = p // samples.
With several, every step is of one bucket. The samples of bucket b in the order of the permutations,
epoch after epoch, are its own endless sequence; batch k of b is its turns k * global_batch and on;
and the steps are the batches in the order in which they become whole while one walks through the
epochs. So nothing is dropped or doubled: what an epoch leaves over goes first in the next.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Place(NamedTuple):
    """Where a position of the stream lies."""

    bucket: int
    turn: int
    """Which one of the bucket's endless sequence of samples."""


class Order:
    """Which sample stands at each position of a run's stream."""

    def __init__(self, buckets: NDArray[np.int16], *, seed: int, global_batch: int) -> None:
        """`buckets` holds the bucket of each sample; below 0: it is left out."""
        self.buckets = buckets
        self.seed = seed
        self.global_batch = global_batch
        self.samples = np.bincount(buckets[buckets >= 0])
        """How many samples each bucket holds."""
        self.starts = len(buckets) - self.samples.sum() + np.cumsum(self.samples) - self.samples
        """Where each bucket begins among the samples of an epoch in the order of their buckets."""

    def place(self, position: int) -> Place:
        """The bucket of a position, and its turn there; the next turn is the bucket's next."""
        step, row = divmod(position, self.global_batch)
        bucket, batch = _batch_of_step(self, step)
        return Place(bucket, batch * self.global_batch + row)

    def sample(self, place: Place) -> int:
        """The number of the sample whose turn it is."""
        epoch, offset = divmod(place.turn, int(self.samples[place.bucket]))
        return int(_walk(self, epoch).by_bucket[self.starts[place.bucket] + offset])

    def steps_before(self, epoch: int) -> int:
        """How many batches the epochs before this one make whole."""
        return int((epoch * self.samples // self.global_batch).sum())


class Walk(NamedTuple):
    """One epoch, walked through."""

    by_bucket: NDArray[np.int64]
    """Its samples, those of a bucket together, in the order of the permutation."""
    finished: NDArray[np.int64]
    """The bucket of each batch that becomes whole, in the order in which they do."""


@lru_cache(maxsize=1)
def permutation(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """The order of one epoch: every number below `samples` once."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def sample_at(position: int, *, seed: int, samples: int) -> int:
    """The sample at a position of a stream of one bucket."""
    epoch, offset = divmod(position, samples)
    return int(permutation(seed, epoch, samples)[offset])


def rank_positions(
    first_step: int, steps: int, *, global_batch: int, micro_batch: int, rank: int, ranks: int
) -> Iterator[list[int]]:
    """The positions of one rank's forward passes, from `first_step` to the last step.

    Step s covers positions s * global_batch and on, so the same samples make a step on any number
    of ranks.
    """
    share = micro_batch * ranks
    for step in range(first_step, steps):
        for first in range(step * global_batch, (step + 1) * global_batch, share):
            mine = first + rank * micro_batch
            yield list(range(mine, mine + micro_batch))


@lru_cache(maxsize=16)
def _batch_of_step(order: Order, step: int) -> tuple[int, int]:
    """The bucket of a step, and which of its batches the step is."""
    # An epoch makes at most samples / global_batch steps and a bucket's share of one.
    beyond = (step + 1 + len(order.samples)) * order.global_batch // int(order.samples.sum()) + 1
    epoch = bisect_right(range(beyond + 1), step, key=order.steps_before) - 1
    finished = _walk(order, epoch).finished[: step - order.steps_before(epoch) + 1]
    bucket = int(finished[-1])
    before = epoch * int(order.samples[bucket]) // order.global_batch
    return bucket, before + int((finished == bucket).sum()) - 1


# A step takes from the epoch that it ends in and, mostly, from the one before. A batch that took
# many epochs to fill walks through them again: for each such bucket one walk more an epoch.
@lru_cache(maxsize=2)
def _walk(order: Order, epoch: int) -> Walk:
    shuffled = permutation(order.seed, epoch, len(order.buckets))
    places = np.argsort(order.buckets[shuffled], kind="stable")
    ends = []
    for bucket, (start, samples) in enumerate(zip(order.starts, order.samples, strict=True)):
        left_over = epoch * samples % order.global_batch
        last = start + order.global_batch - 1 - left_over
        whole = places[last : start + samples : order.global_batch]
        ends.append(np.stack([whole, np.full_like(whole, bucket)]))
    ended = np.concatenate(ends, axis=1)
    return Walk(shuffled[places], ended[1, ended[0].argsort()])
