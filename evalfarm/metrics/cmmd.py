"""CMMD: how far the pictures as a set are from real ones, by CLIP and without taking for Gaussians.

Jayasumana et al. 2024: the squared maximum mean discrepancy of CLIP's unit vectors x, y

    1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y))      k(x, y) = exp(-|x - y|² / (2 · 10²))

over all pairs, a vector with itself too (the biased estimator). 0 to 39.6, in thousandths of the
kernel, lower is better. The published one is that of OpenAI's ViT-L/14 at 336 pixels: the square in
the middle of a picture, resized by Pillow's antialiased bicubic filter, as in its authors' code.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.clip_vectors import clip_of
from evalfarm.rows import Rows

NETWORK = "clip_l14_336"
SIGMA, SCALE = 10.0, 1000.0
BLOCK = 1000  # rows of a kernel at a time: 240 MB of it with 30,000 real pictures


@register("cmmd")
class Cmmd(ConfiguredMetric):
    """Kernel distance of CLIP's features to the references'."""

    modes = ("l14-336",)
    weights = (NETWORK,)
    columns = (
        Column(name="cmmd", title="CMMD", unit="MMD²/1000", higher_is_better=False, decimals=3),
    )
    references = "set"
    resamples = 20  # a second each, of 5,000 pictures

    def look(self, batch: Batch) -> list[Seen]:
        """The unit vector of the middle of each picture."""
        vectors = clip_of(batch, NETWORK).images([middle_square(image) for image in batch.images])
        return [Seen(features=row) for row in vectors.numpy()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The distance; nothing with fewer than two pictures on a side."""
        if min(len(rows), len(references)) < 2:
            return {}
        ours, theirs = _features(rows), _features(references)
        within = _within(rows) + _within(references)
        return {"cmmd": SCALE * (within - 2 * mean_kernel(ours, theirs))}


def middle_square(image: Image.Image) -> Image.Image:
    """The largest square in the middle of a picture."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def mean_kernel(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The mean of k over all pairs of vectors, pictures dim each."""
    squares = np.square(second).sum(axis=1)
    total = 0.0
    for start in range(0, len(first), BLOCK):
        some = first[start : start + BLOCK]
        gaps = np.square(some).sum(axis=1)[:, None] + squares - 2 * some @ second.T
        total += float(np.exp(-gaps / (2 * SIGMA**2)).sum())
    return total / (len(first) * len(second))


def _within(rows: Rows) -> float:
    features = _features(rows)
    return rows.once("cmmd within", lambda: mean_kernel(features, features))


def _features(rows: Rows) -> NDArray[np.float64]:
    assert rows.features is not None
    return rows.features.astype(np.float64)
