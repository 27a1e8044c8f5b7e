"""Fréchet distance: how far the pictures as a set are from real ones.

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)        Heusel et al. 2017

over features of a named network, here the unit vectors of a CLIP's picture tower: not FID, which
names Inception's. Covariances are unbiased (n - 1). 0 and up, lower is better. It shrinks as more
pictures are scored: only numbers with equal n compare.

All sums are float64. The trace of the root comes from the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is
symmetric; scipy's general root, which others use, is gone from its releases after 1.17.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evalfarm.config import EvalConfig
from evalfarm.ledger import Score
from evalfarm.metrics.base import Asked, Column, Metric, Seen, register
from evalfarm.metrics.clip_score import missing_clip
from trainer.models.clip import Clip, clip_name


@register("frechet")
class Frechet(Metric):
    """Fréchet distance of CLIP features to the references'."""

    columns = (
        Column(
            name="distance", title="Fréchet", unit="squared", higher_is_better=False, decimals=4
        ),
    )
    needs_references = True

    @staticmethod
    def absent(config: EvalConfig) -> str | None:
        """Absent without a CLIP or without references."""
        if config.references is None:
            return "no real pictures: set eval.references to a tar or folder of them"
        if not config.references.exists():
            return f"eval.references {config.references} does not exist"
        return missing_clip(config)

    @staticmethod
    def variant(config: EvalConfig) -> str:
        """Name and digest of the CLIP."""
        assert config.clip is not None
        return clip_name(config.clip)

    def __init__(self, config: EvalConfig) -> None:
        assert config.clip is not None
        self.clip = Clip(config.clip)

    def look(self, asked: Sequence[Asked]) -> list[Seen]:
        """The features of each picture."""
        features = self.clip.images([one.image for one in asked]).numpy()
        return [Seen(features=row) for row in features]

    @staticmethod
    def summarize(scores: Sequence[Score], references: Sequence[Score]) -> dict[str, float]:
        """The distance; nothing with fewer than two pictures on either side."""
        if min(len(scores), len(references)) < 2:
            return {}
        return {"distance": frechet_distance(_features(scores), _features(references))}


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """d² between two sets of features, each pictures x dim with at least two rows."""
    mean_gap = first.mean(axis=0) - second.mean(axis=0)
    covariance_1 = np.cov(first, rowvar=False, dtype=np.float64)
    covariance_2 = np.cov(second, rowvar=False, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance_1))
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    product = root @ np.atleast_2d(covariance_2) @ root
    trace_of_root = np.sqrt(np.clip(np.linalg.eigvalsh(product), 0, None)).sum()
    traces = np.trace(np.atleast_2d(covariance_1)) + np.trace(np.atleast_2d(covariance_2))
    return float(mean_gap @ mean_gap + traces - 2 * trace_of_root)


def _features(scores: Sequence[Score]) -> NDArray[np.float64]:
    return np.stack([score.features for score in scores if score.features is not None]).astype(
        np.float64
    )
