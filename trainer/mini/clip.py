"""Training the mini model's CLIP: its text tower conditions the UNet, the whole of it scores."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from trainer.config import OptimConfig
from trainer.engine import learning_rate

Pairs = tuple[Tensor, list[str]]
"""Pictures (uint8 RGB, batch 3 height width) and their captions."""


def train_clip(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    processor: CLIPImageProcessorPil,
    batches: Iterator[Pairs],
    optim: OptimConfig,
    steps: int,
) -> Iterator[float]:
    """Contrast pictures with captions (Radford et al. 2021), yielding the loss of each step."""
    optimizer = torch.optim.AdamW(
        clip.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, optim, steps)
        similarity = similarities(clip, tokenizer, processor, next(batches))
        own = torch.arange(len(similarity))
        loss = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


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
    """Share of the pictures, 0 to 1, whose own caption is the nearest of all in `pairs`."""
    nearest = similarities(clip, tokenizer, processor, pairs).argmax(dim=1)
    return float((nearest == torch.arange(len(nearest))).float().mean())


def _pictures(images: Tensor) -> Sequence[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
