"""Fréchet Inception Distance: how far the pictures as a set are from real ones.

Heusel et al. 2017: the distance of `frechet_distance.py` over the 2048 pool features of the
Inception of 2015. 0 and up, in squared units of the features, lower is better. It shrinks as more
pictures are scored, on either side: only numbers with equal n and equal real pictures compare.

How a picture comes to 299 x 299 pixels decides the number, so it is the mode:

    clean   bicubic with antialiasing                clean-fid, Parmar et al. 2022
    tf      bilinear without, TensorFlow's corners   Heusel et al., torch-fidelity
    torch   bilinear without, PyTorch's corners      pytorch-fid
    mario   as torch; a FID for each sample number (the first picture of every prompt, the second,
            …) to all real pictures, and their mean: MARIO-Eval, TextDiffuser, Chen et al. 2023
"""

import numpy as np

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.frechet_distance import distance_to
from evalfarm.metrics.inception_features import NETWORK, pool_features, pool_rows
from evalfarm.rows import Rows


@register("fid")
class Fid(ConfiguredMetric):
    """Fréchet distance of Inception's features to the references'."""

    modes = ("clean", "tf", "torch", "mario")
    weights = (NETWORK,)
    columns = (Column(name="fid", title="FID", unit="squared", higher_is_better=False, decimals=2),)
    references = "set"
    resamples = 20  # six seconds each, of 10,000 pictures

    @property
    def rows(self) -> str:
        """Those of all that look at pool features in the same way."""
        return pool_rows(self.networks, self._way)

    def look(self, batch: Batch) -> list[Seen]:
        """The pool features of each picture."""
        return pool_features(batch, self._way)

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The distance; nothing with fewer than two pictures on a side, of any sample number."""
        numbers = np.unique(rows.samples) if self.mode == "mario" else [None]
        sets = [rows if number is None else rows.take(rows.samples == number) for number in numbers]
        distances = [distance_to(references, some) for some in sets]
        known = [distance for distance in distances if distance is not None]
        return {"fid": float(np.mean(known))} if known and len(known) == len(sets) else {}

    @property
    def _way(self) -> str:
        return "torch" if self.mode == "mario" else self.mode
