"""Inception Score: are the pictures each of one kind, and of many kinds together?

Salimans et al. 2016: exp(mean over pictures of KL(p(class | picture) || p(class))) of the 1008
classes of the Inception of 2015, over ten parts of the pictures in an order drawn as torch-fidelity
draws it; `std` is the parts' spread. 1 to 1008, a bare number, higher is better. It knows classes
of ImageNet only, and no real pictures: for pictures of words it says little. It grows with n.

The published score shows the network pictures as TensorFlow did; the modes are `fid`'s.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.inception_features import NETWORK, inception_outputs
from evalfarm.rows import Rows

PARTS = 10
SEED = 2020  # torch-fidelity's


@register("inception_score")
class InceptionScore(ConfiguredMetric):
    """Mean and spread of the score over ten parts."""

    modes = ("tf", "clean", "torch")
    weights = (NETWORK,)
    resamples = 20
    columns = (
        Column(name="score", title="IS", unit="score", higher_is_better=True, decimals=2),
        Column(
            name="std",
            title="IS std",
            unit="score",
            higher_is_better=False,
            decimals=2,
            spread=True,
            headline=False,
        ),
    )

    def look(self, batch: Batch) -> list[Seen]:
        """The logits of each picture."""
        return [Seen(features=row) for row in inception_outputs(batch, self.mode).logits.numpy()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """Mean and spread; nothing with fewer than two pictures in a part."""
        if len(rows) < 2 * PARTS:
            return {}
        assert rows.features is not None
        scores = part_scores(rows.features.astype(np.float64))
        return {"score": float(np.mean(scores)), "std": float(np.std(scores))}


def part_scores(logits: NDArray[np.float64]) -> list[float]:
    """The score of each part of the pictures: pictures classes."""
    order = np.random.RandomState(SEED).permutation(len(logits))
    bounds = [part * len(logits) // PARTS for part in range(PARTS + 1)]
    return [_score(logits[order[first:last]]) for first, last in pairwise(bounds)]


def _score(logits: NDArray[np.float64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    shares = np.exp(log_shares)
    log_mean = np.log(shares.mean(axis=0))
    return float(np.exp((shares * (log_shares - log_mean)).sum(axis=1).mean()))
