"""Fréchet distance of CLIP's features: how far the pictures as a set are from real ones.

The distance of `frechet_distance.py` over the unit vectors of a CLIP's picture tower, of one's own
choice: not FID, which names Inception's features. 0 and up, in squared units of the features, lower
is better. It shrinks as more pictures are scored: only numbers with equal n compare.
"""

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.clip_vectors import image_vectors
from evalfarm.metrics.frechet_distance import distance_to
from evalfarm.rows import Rows


@register("frechet")
class Frechet(ConfiguredMetric):
    """Fréchet distance of CLIP features to the references'."""

    modes = ("clip",)
    weights = ("clip",)
    columns = (
        Column(
            name="distance", title="Fréchet", unit="squared", higher_is_better=False, decimals=4
        ),
    )
    references = "set"
    resamples = 50  # a quarter of a second each, of 5,000 pictures by 512 numbers

    def look(self, batch: Batch) -> list[Seen]:
        """The features of each picture."""
        return [Seen(features=row) for row in image_vectors(batch, "clip").numpy()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The distance; nothing with fewer than two pictures on either side."""
        distance = distance_to(references, rows)
        return {} if distance is None else {"distance": distance}
