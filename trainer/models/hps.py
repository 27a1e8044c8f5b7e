"""Human Preference Score v2 and v2.1 (Wu et al. 2023): a ViT-H-14 taught what people prefer."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer

from trainer.models.clip import image_vectors, text_vectors
from trainer.models.open_clip import from_open_clip
from trainer.models.rgb import normalize, resize, rgb_pixels
from trainer.models.untrusted import tensors_of

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Hps:
    """The cosine of a picture and its prompt, frozen. v2 and v2.1 differ in their weights alone."""

    def __init__(self, path: Path, tokenizer: Path, device: str = "cpu") -> None:
        self.device = device
        self.model = from_open_clip(tensors_of(path, values=True)).to(device).eval()
        self.model.requires_grad_(False)
        # The vocabulary of ViT-H-14 is that of every CLIP.
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures as they were published to be seen: images 3 side side, in [0, 1]."""
        return torch.cat([self._in_square(rgb_pixels(one)[None]) for one in images]).to(self.device)

    def score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines of RGB in [0, 1], batch 3 height width, with their prompts: batch.

        The gradient reaches the pixels.
        """
        inputs = normalize(self._in_square(pixels), MEAN, STD)
        texts = text_vectors(self.model, self.tokenizer, prompts)
        return (image_vectors(self.model, inputs) * texts).sum(dim=-1)

    def _in_square(self, pixels: Tensor) -> Tensor:
        """The longer side made the network's, black above and below, or left and right."""
        side = self.model.config.vision_config.image_size
        height, width = pixels.shape[-2:]
        scale = side / max(height, width)
        pixels = resize(pixels, round(height * scale), round(width * scale))
        high, wide = side - pixels.shape[-2], side - pixels.shape[-1]
        return F.pad(pixels, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
