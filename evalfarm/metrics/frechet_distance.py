"""The Fréchet distance of two sets of features, each taken for a Gaussian.

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)        Dowson and Landau 1982

Covariances are unbiased (n - 1), all is float64. With roots RᵢᵀRᵢ = Σᵢ the last trace is the sum
of the singular values of R₁R₂ᵀ. No covariance is ever formed, nor a square root taken of an
eigenvalue that rounding moved off 0: it holds where Σ has no full rank, as with fewer pictures than
dimensions. There a root is the centred features themselves, else the R of their QR decomposition.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfarm.rows import Rows

FEWEST = 2


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set of features."""

    mean: NDArray[np.float64]
    """dim"""
    root: NDArray[np.float64]
    """Its transpose times it is the covariance: at most dim, dim"""


def gaussian(features: NDArray[np.floating]) -> Gaussian:
    """The Gaussian of features: pictures dim, at least two pictures."""
    assert len(features) >= FEWEST
    mean = features.mean(axis=0, dtype=np.float64)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    few = len(features) <= features.shape[1]
    root: NDArray[np.float64] = centred if few else np.asarray(np.linalg.qr(centred, mode="r"))
    return Gaussian(mean, root)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """d² of two Gaussians: 0 and up."""
    gap = first.mean - second.mean
    traces = np.square(first.root).sum() + np.square(second.root).sum()
    nuclear = np.linalg.svd(first.root @ second.root.T, compute_uv=False).sum()
    return max(float(gap @ gap + traces - 2 * nuclear), 0.0)  # rounding alone brings it below 0


def distance_to(references: Rows, rows: Rows) -> float | None:
    """d² of a checkpoint's features to those of real pictures; None with too few on either side.

    What it costs to know the real pictures is paid once.
    """
    if min(len(rows), len(references)) < FEWEST:
        return None
    return frechet_distance(_gaussian_of(rows), _gaussian_of(references))


def _gaussian_of(rows: Rows) -> Gaussian:
    features = rows.features
    assert features is not None
    return rows.once("gaussian", lambda: gaussian(features))
