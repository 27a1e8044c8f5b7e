"""Which sample stands where: the whole order of a run, from its seed alone.

A run reads one endless stream. Position p of it is sample `permutation(epoch)[p % samples]`, with
epoch = p // samples, whatever the number of ranks; a run that resumes needs to know its step alone.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def permutation(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """The order of one epoch: every number below `samples` once."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def sample_at(position: int, *, seed: int, samples: int) -> int:
    """The sample at a position of the stream."""
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
