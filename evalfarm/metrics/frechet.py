"""Fréchet distance: how far the pictures as a set are from real ones.

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)        Heusel et al. 2017

over features of a named network, here the unit vectors of a CLIP's picture tower: not FID, which
names Inception's. Covariances are unbiased (n - 1). 0 and up, lower is better. It shrinks as more
pictures are scored: only numbers with equal n compare.

All sums are float64. The trace of the root comes from the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is
symmetric; scipy's general root, which others use, is gone from its releases after 1.17.
"""

import numpy as np
from numpy.typing import NDArray

from evalfarm.ledger import Rows
from evalfarm.metrics.base import Batch, Column, Metric, Seen, register
from evalfarm.metrics.clip_vectors import image_vectors, short_digest
from evalfarm.networks import missing_network


@register("frechet")
class Frechet(Metric):
    """Fréchet distance of CLIP features to the references'."""

    modes = ("clip",)
    columns = (
        Column(
            name="distance", title="Fréchet", unit="squared", higher_is_better=False, decimals=4
        ),
    )
    references = "set"
    resamples = 50  # a quarter of a second each, of 5,000 pictures by 512 numbers

    def absent(self) -> str | None:
        """Absent without a CLIP."""
        return missing_network(self.networks, "clip")

    @property
    def variant(self) -> str:
        """Mode and digest of the CLIP."""
        return f"{self.mode}@{short_digest(self.networks, 'clip')}"

    def look(self, batch: Batch) -> list[Seen]:
        """The features of each picture."""
        return [Seen(features=row) for row in image_vectors(batch, "clip").numpy()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The distance; nothing with fewer than two pictures on either side."""
        if min(len(rows), len(references)) < 2:
            return {}
        assert rows.features is not None
        assert references.features is not None
        return {"distance": frechet_distance(rows.features, references.features)}


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """d² between two sets of features, each pictures x dim with at least two rows."""
    mean_gap = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    covariance_1 = np.cov(first, rowvar=False, dtype=np.float64)
    covariance_2 = np.cov(second, rowvar=False, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance_1))
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    product = root @ np.atleast_2d(covariance_2) @ root
    trace_of_root = np.sqrt(np.clip(np.linalg.eigvalsh(product), 0, None)).sum()
    traces = np.trace(np.atleast_2d(covariance_1)) + np.trace(np.atleast_2d(covariance_2))
    return float(mean_gap @ mean_gap + traces - 2 * trace_of_root)
