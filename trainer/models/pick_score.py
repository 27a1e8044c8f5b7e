"""PickScore (Kirstain et al. 2023): a CLIP-H taught what people pick of two pictures."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from trainer.models.clip import Clip


class PickScore:
    """The cosine of a picture and its prompt times the scale that was learned, frozen."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.clip = Clip(folder, device)
        self.scale = float(self.clip.model.logit_scale.exp())
        """Of PickScore_v1, 100."""

    def score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores of RGB in [0, 1], batch 3 height width, with their prompts: batch.

        The gradient reaches the pixels.
        """
        return self.scale * self.clip.cosines(pixels, prompts)
