"""What the mini model's CLIP learns; its text tower conditions the UNet, the whole of it scores."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

Pairs = tuple[Tensor, list[str]]
"""Pictures (uint8 RGB, batch 3 height width) and their captions."""


def contrastive_loss(similarity: Tensor) -> Tensor:
    """Each picture should be nearest to its own caption and the reverse (Radford et al. 2021).

    `similarity` has a row for each picture and a column for each caption, in the same order.
    """
    own = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def similarities(
    clip: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessorPil, pairs: Pairs
) -> Tensor:
    """Scaled cosines, one row a picture and one column a caption."""
    images, captions = pairs
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    output = clip(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        pixel_values=processor(_pictures(images), return_tensors="pt").pixel_values,
    )
    logits: Tensor = output.logits_per_image
    return logits


@torch.no_grad()
def share_matched(
    clip: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessorPil, pairs: Pairs
) -> float:
    """Share of the pictures, 0 to 1, to which no other caption in `pairs` is nearer than their own.

    Pictures may share a caption.
    """
    _, captions = pairs
    nearest: list[int] = similarities(clip, tokenizer, processor, pairs).argmax(dim=1).tolist()
    right: list[bool] = [
        captions[found] == own for found, own in zip(nearest, captions, strict=True)
    ]
    return sum(right) / len(right)


def _pictures(images: Tensor) -> Sequence[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
