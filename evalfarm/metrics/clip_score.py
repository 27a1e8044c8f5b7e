"""CLIPScore: does the picture show what its prompt says?

Per picture the cosine of CLIP's unit vectors of picture and prompt, 0 where it is negative; the
summary is the mean. Higher is better. Published numbers have three scales, so each mode states its
own:

    clip    100 * max(0, cos), 0 to 100 points; a CLIP of your own
    b32     the same of OpenAI's ViT-B/32
    l14     the same of OpenAI's ViT-L/14, torchmetrics' default
    mario   max(0, cos), 0 to 1, of ViT-B/32 with "A photo depicts " before the prompt, as in
            MARIO-Eval (TextDiffuser, Chen et al. 2023)

Hessel et al. 2021, who named it, multiply mario's number by 2.5.
"""

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.metrics.clip_vectors import image_vectors, text_vectors
from evalfarm.rows import Rows
from trainer.models.config import NetworksConfig

NETWORKS = {"clip": "clip", "b32": "clip_b32", "l14": "clip_l14", "mario": "clip_b32"}
TITLES = {
    "clip": "CLIPScore",
    "b32": "CLIPScore B/32",
    "l14": "CLIPScore L/14",
    "mario": "CLIPScore MARIO",
}
MARIO_PREFIX = "A photo depicts "


@register("clip_score")
class ClipScore(ConfiguredMetric):
    """Mean cosine of picture and prompt, on the scale of its mode."""

    modes = tuple(NETWORKS)

    def __init__(self, mode: str, networks: NetworksConfig) -> None:
        super().__init__(mode, networks)
        mario = mode == "mario"
        self.network = NETWORKS[mode]
        self.weights = (self.network,)
        self.scale = 1.0 if mario else 100.0
        self.prefix = MARIO_PREFIX if mario else ""
        self.columns = (
            Column(
                name="score",
                title=TITLES[mode],
                unit="cosine" if mario else "points",
                higher_is_better=True,
                decimals=4 if mario else 2,
                mean_of="score",
            ),
        )

    def look(self, batch: Batch) -> list[Seen]:
        """One cosine each."""
        images = image_vectors(batch, self.network)
        prompts = [self.prefix + prompt for prompt in batch.prompts]
        cosines = (images * text_vectors(batch, self.network, prompts)).sum(dim=-1)
        scores = self.scale * cosines.clamp(min=0)  # NaN stays NaN, where max() would make it 0
        return [Seen(numbers={"score": score}) for score in scores.tolist()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures."""
        return self.means(rows)
