"""CLIP from a local folder: pictures and captions in one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from trainer.models.rgb import normalize, resize


class Clip:
    """Both towers of a CLIP (Radford et al. 2021), frozen."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.device = device
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.model.requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        # The pixels differ between transformers' two backends: one is fixed.
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any size as unit vectors: images dim, on the CPU."""
        return self.vectors(self.pixels(images)).cpu()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Captions as unit vectors: texts dim, on the CPU. What is too long is cut."""
        return text_vectors(self.model, self.tokenizer, texts).cpu()

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures as this CLIP was published to see them: images 3 side side, in [0, 1]."""
        seen = self.processor(list(images), do_normalize=False, return_tensors="pt")
        pixels: Tensor = seen.pixel_values.to(self.device)
        return pixels

    def vectors(self, pixels: Tensor) -> Tensor:
        """Unit vectors of RGB in [0, 1], batch 3 height width; the gradient reaches the pixels.

        Pictures of another size than the network's are resized as `pixels` does it, but without
        Pillow's rounding to bytes.
        """
        mean, std = tuple(self.processor.image_mean), tuple(self.processor.image_std)
        return image_vectors(self.model, normalize(self._at_its_size(pixels), mean, std))

    def cosines(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """How near each picture is to its caption, -1 to 1: batch."""
        return (self.vectors(pixels) * self.texts(texts).to(pixels.device)).sum(dim=-1)

    def _at_its_size(self, pixels: Tensor) -> Tensor:
        side = self.model.config.vision_config.image_size
        height, width = pixels.shape[-2:]
        if (height, width) == (side, side) or not self.processor.do_center_crop:
            return resize(pixels, side, side)
        short = min(height, width)
        pixels = resize(pixels, side * height // short, side * width // short)
        top, left = (pixels.shape[-2] - side) // 2, (pixels.shape[-1] - side) // 2
        return pixels[..., top : top + side, left : left + side]


def image_vectors(model: CLIPModel, inputs: Tensor) -> Tensor:
    """Unit vectors of normalised pictures of the network's size: batch dim."""
    return _unit(model.get_image_features(pixel_values=inputs).pooler_output)


def text_vectors(model: CLIPModel, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Unit vectors of captions: texts dim. What is too long is cut."""
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    ).to(model.device)
    features = model.get_text_features(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
    )
    return _unit(features.pooler_output)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
