"""Kernel Inception Distance: how far the pictures as a set are from real ones, without bias.

Bińkowski et al. 2018: the squared maximum mean discrepancy of Inception's 2048 pool features x, y

    MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)      k(x, y) = (x·y / 2048 + 1)³

where x ≠ x' and y ≠ y' (the unbiased estimator), as the mean over 100 subsets of 1000 pictures from
each side, drawn as torch-fidelity draws them; of as many as the smaller side has where those are
fewer. In units of the kernel, about 0 and up (chance may bring it below), lower is better. Its
expectation does not depend on n, as FID's does. `std` is the spread of the subsets, which overlap:
it is no confidence interval. Modes as `fid`'s, whose rows it shares.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.inception_features import NETWORK, pool_features, pool_rows
from evalfarm.rows import Rows

SUBSETS, SUBSET_PICTURES = 100, 1000
SEED = 2020  # torch-fidelity's

Features = NDArray[np.float64]


@register("kid")
class Kid(ConfiguredMetric):
    """Kernel distance of Inception's features to the references'."""

    modes = ("clean", "tf", "torch")
    weights = (NETWORK,)
    columns = (
        Column(name="kid", title="KID", unit="MMD²", higher_is_better=False, decimals=5),
        Column(
            name="std",
            title="KID std",
            unit="MMD²",
            higher_is_better=False,
            decimals=5,
            spread=True,
            headline=False,
        ),
    )
    references = "set"
    resamples = 0  # half a minute each, of 5,000 pictures; the spread over subsets stands beside it

    @property
    def rows(self) -> str:
        """Those of all that look at pool features in the same way."""
        return pool_rows(self.networks, self.mode)

    def look(self, batch: Batch) -> list[Seen]:
        """The pool features of each picture."""
        return pool_features(batch, self.mode)

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """Mean and spread over subsets; nothing with fewer than two pictures on a side.

        Where a subset is all there is on both sides there is one, and no spread.
        """
        if min(len(rows), len(references)) < 2:
            return {}
        assert rows.features is not None
        assert references.features is not None
        first, second = rows.features, references.features
        distances = list(subset_distances(first.astype(np.float64), second.astype(np.float64)))
        spread = {"std": float(np.std(distances))} if len(distances) > 1 else {}
        return {"kid": float(np.mean(distances)), **spread}


def subset_distances(
    first: Features, second: Features, pictures: int = SUBSET_PICTURES
) -> Iterator[float]:
    """MMD² of random subsets of two sets of features, pictures dim each."""
    size = min(pictures, len(first), len(second))
    chance = np.random.RandomState(SEED)
    for _ in range(1 if len(first) == len(second) == size else SUBSETS):
        places = [chance.choice(len(side), size, replace=False) for side in (first, second)]
        yield squared_mmd(first[places[0]], second[places[1]])


def squared_mmd(first: Features, second: Features) -> float:
    """The unbiased MMD² of two sets of features under the cubic kernel."""
    within = sum(_mean_of_pairs(_kernel(side, side)) for side in (first, second))
    return float(within - 2 * _kernel(first, second).mean())


def _kernel(first: Features, second: Features) -> Features:
    cubic: Features = (first @ second.T / first.shape[1] + 1) ** 3
    return cubic


def _mean_of_pairs(kernel: Features) -> float:
    """Without those of a picture and itself."""
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
