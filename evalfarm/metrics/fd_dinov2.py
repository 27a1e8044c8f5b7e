"""FD-DINOv2: FID with the features of a network that was taught without labels.

Stein et al. 2023 ("Exposing flaws of generative model evaluation metrics") find that it agrees with
people where Inception's features do not: the distance of `frechet_distance.py` over DINOv2's CLS
vectors, of its ViT-L/14 there. 0 and up, in squared units of the features, lower is better. It
shrinks as more pictures are scored: only numbers with equal n and equal real pictures compare.
Pictures are shown as by dgm-eval, the authors' program: see trainer/models/dinov2.py.
"""

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.frechet_distance import distance_to
from evalfarm.rows import Rows
from trainer.models.dinov2 import Dinov2

NETWORK = "dinov2"


@register("fd_dinov2")
class FdDinov2(ConfiguredMetric):
    """Fréchet distance of DINOv2's features to the references'."""

    modes = ("dgm-eval",)
    weights = (NETWORK,)
    columns = (
        Column(
            name="fd_dinov2", title="FD-DINOv2", unit="squared", higher_is_better=False, decimals=1
        ),
    )
    references = "set"
    resamples = 20  # a second each, of 10,000 pictures

    def look(self, batch: Batch) -> list[Seen]:
        """The CLS vector of each picture."""
        device = batch.networks.device
        dinov2 = batch.networks.load(NETWORK, lambda folder: Dinov2(folder, device))
        return [Seen(features=row) for row in dinov2.images(batch.images).numpy()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The distance; nothing with fewer than two pictures on a side."""
        distance = distance_to(references, rows)
        return {} if distance is None else {"fd_dinov2": distance}
