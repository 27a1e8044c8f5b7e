"""CLIPScore: does the picture show what its prompt says?

Per picture 100 * max(0, cos(picture, prompt)), of CLIP's unit vectors: 0 to 100 points, higher is
better; the summary is the mean. Hessel et al. 2021 multiply by 2.5, not 100, and put "A photo
depicts" before the prompt; MARIO-Eval reports the bare cosine. The weights are in the name.
"""

from collections.abc import Sequence

from evalfarm.config import EvalConfig
from evalfarm.ledger import Score
from evalfarm.metrics.base import Asked, Column, Metric, Seen, mean, register
from trainer.models.clip import Clip, clip_name


@register("clip_score")
class ClipScore(Metric):
    """Mean of 100 * max(0, cosine) of picture and prompt."""

    columns = (
        Column(name="score", title="CLIPScore", unit="points", higher_is_better=True, decimals=2),
    )

    @staticmethod
    def absent(config: EvalConfig) -> str | None:
        """Absent without a CLIP."""
        return missing_clip(config)

    @staticmethod
    def variant(config: EvalConfig) -> str:
        """Name and digest of the CLIP."""
        assert config.clip is not None
        return clip_name(config.clip)

    def __init__(self, config: EvalConfig) -> None:
        assert config.clip is not None
        self.clip = Clip(config.clip)

    def look(self, asked: Sequence[Asked]) -> list[Seen]:
        """One cosine each."""
        images = self.clip.images([one.image for one in asked])
        texts = self.clip.texts([one.prompt for one in asked])
        cosines = (images * texts).sum(dim=-1).tolist()
        return [Seen(numbers={"score": 100 * max(0.0, cosine)}) for cosine in cosines]

    @staticmethod
    def summarize(scores: Sequence[Score], references: Sequence[Score]) -> dict[str, float]:
        """The mean over pictures."""
        return {"score": mean(scores, "score")}


def missing_clip(config: EvalConfig) -> str | None:
    """Why there is no CLIP to score with; None if there is one."""
    if config.clip is None:
        return "no CLIP: set eval.clip to the folder of one"
    if not (config.clip / "config.json").is_file():
        return f"eval.clip {config.clip} is no folder of a CLIP: it holds no config.json"
    return None
