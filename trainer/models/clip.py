"""CLIP from a local folder: pictures and captions in one space."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from trainer.models.digest import SHORT, weights_digest


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
        pixels = self.processor(list(images), return_tensors="pt").pixel_values.to(self.device)
        return _unit(self.model.get_image_features(pixel_values=pixels).pooler_output)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Captions as unit vectors: texts dim, on the CPU. What is too long is cut."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        features = self.model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return _unit(features.pooler_output)


def clip_name(folder: Path) -> str:
    """The name that these weights bear in metrics: `clip@` and the start of their digest."""
    return f"clip@{weights_digest(folder)[:SHORT]}"


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1).cpu()
