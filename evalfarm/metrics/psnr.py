"""PSNR: how far are the pixels from those of the real picture of its prompt?

    PSNR = 10 log10(1 / MSE)

of RGB values from 0 to 1, over all pixels and colours of a picture. Decibels, 0 and up; higher is
better. Equal pictures have none, and count as 100 dB, which is the most. The summary is the mean of
the pictures' decibels. The real picture is made the size of the other (evalfarm/metrics/pairs.py).
"""

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.pairs import pixel_pairs
from evalfarm.rows import Rows

MOST_DB = 100.0


@register("psnr")
class Psnr(ConfiguredMetric):
    """Mean decibels of each picture against its real one."""

    modes = ("rgb",)
    columns = (
        Column(
            name="psnr",
            title="PSNR",
            unit="dB",
            higher_is_better=True,
            decimals=2,
            mean_of="psnr",
        ),
    )
    references = "pairs"

    def look(self, batch: Batch) -> list[Seen]:
        """Decibels of each."""
        pictures, targets = pixel_pairs(batch)
        errors = (pictures - targets).double().square().mean(dim=(1, 2, 3))
        decibels = (-10 * errors.log10()).clamp(max=MOST_DB).tolist()
        return [Seen(numbers={"psnr": one}) for one in decibels]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures."""
        return self.means(rows)
