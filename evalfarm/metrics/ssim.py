"""SSIM: how alike are the structures of the picture and of the real one of its prompt?

    SSIM = (2 m(x) m(y) + c1) (2 cov(x, y) + c2) / ((m(x)² + m(y)² + c1) (var(x) + var(y) + c2))

at every place (Wang et al. 2004), mean m, cov and var under a Gaussian of 1.5 pixels on 11 x 11,
c1 = 0.01² and c2 = 0.03² for values from 0 to 1; the mean over all places and the three colours.
Pictures are mirrored at their edges, as in torchmetrics; the paper's code leaves the edges out.
-1 to 1, 1 for equal pictures; higher is better. The summary is the mean. The real picture is made
the size of the other (evalfarm/metrics/pairs.py).
"""

from torchmetrics.functional.image import structural_similarity_index_measure

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.pairs import pixel_pairs
from evalfarm.rows import Rows

SIGMA_PX = 1.5


@register("ssim")
class Ssim(ConfiguredMetric):
    """Mean similarity of each picture and its real one."""

    modes = ("gaussian",)
    columns = (
        Column(
            name="ssim",
            title="SSIM",
            unit="similarity",
            higher_is_better=True,
            decimals=4,
            mean_of="ssim",
        ),
    )
    references = "pairs"

    def look(self, batch: Batch) -> list[Seen]:
        """One similarity each."""
        pictures, targets = pixel_pairs(batch)
        # A range left open would be that of the batch, and a picture's number depend on the others.
        similarities = structural_similarity_index_measure(
            pictures, targets, sigma=SIGMA_PX, data_range=1.0, reduction="none"
        )
        return [Seen(numbers={"ssim": similarity}) for similarity in similarities.tolist()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures."""
        return self.means(rows)
