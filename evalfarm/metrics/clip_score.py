"""CLIPScore: does the picture show what its prompt says?

Per picture 100 * max(0, cos(picture, prompt)), of CLIP's unit vectors: 0 to 100 points, higher is
better; the summary is the mean. Hessel et al. 2021 multiply by 2.5, not 100, and put "A photo
depicts" before the prompt; MARIO-Eval reports the bare cosine. The weights are in the name.
"""

from evalfarm.ledger import Rows
from evalfarm.metrics.base import Batch, Column, Metric, Seen, register
from evalfarm.metrics.clip_vectors import image_vectors, short_digest, text_vectors
from evalfarm.networks import missing_network


@register("clip_score")
class ClipScore(Metric):
    """Mean of 100 * max(0, cosine) of picture and prompt."""

    modes = ("clip",)
    columns = (
        Column(
            name="score",
            title="CLIPScore",
            unit="points",
            higher_is_better=True,
            decimals=2,
            mean_of="score",
        ),
    )

    def absent(self) -> str | None:
        """Absent without a CLIP."""
        return missing_network(self.networks, "clip")

    @property
    def variant(self) -> str:
        """Mode and digest of the CLIP."""
        return f"{self.mode}@{short_digest(self.networks, 'clip')}"

    def look(self, batch: Batch) -> list[Seen]:
        """One cosine each."""
        images = image_vectors(batch, "clip")
        texts = text_vectors(batch, "clip", batch.prompts)
        cosines = (images * texts).sum(dim=-1).tolist()
        return [Seen(numbers={"score": 100 * max(0.0, cosine)}) for cosine in cosines]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures."""
        return self.means(rows)
