"""How good does the picture look to LAION's raters? Its prompt does not count.

LAION's aesthetic predictor V2 (Schuhmann 2022), `sac+logos+ava1-l14-linearMSE.pth`: five linear
layers on the unit vector that OpenAI's CLIP ViT-L/14 gives a picture. Nominally 1 to 10, in
practice 3 to 8; higher is better. The summary is the mean. `clip_score/l14` shares its pass.
"""

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.clip_vectors import image_vectors
from evalfarm.rows import Rows
from trainer.models.aesthetic import AestheticHead


@register("aesthetic")
class Aesthetic(ConfiguredMetric):
    """Mean rating."""

    modes = ("v2",)
    weights = ("clip_l14", "aesthetic")
    columns = (
        Column(
            name="aesthetic",
            title="Aesthetic",
            unit="rating",
            higher_is_better=True,
            mean_of="aesthetic",
        ),
    )

    def look(self, batch: Batch) -> list[Seen]:
        """One rating each."""
        head = batch.networks.load("aesthetic", AestheticHead)
        ratings = head(image_vectors(batch, "clip_l14")).tolist()
        return [Seen(numbers={"aesthetic": rating}) for rating in ratings]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures."""
        return self.means(rows)
