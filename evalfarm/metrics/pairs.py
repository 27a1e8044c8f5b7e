"""Pictures beside the real ones that they are compared with."""

import torch
from PIL import Image, ImageOps
from torch import Tensor

from evalfarm.metrics.base import Batch
from trainer.models.rgb import rgb_pixels


def pixel_pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """The pictures and the real ones: batch 3 height width each, in [0, 1].

    A real picture is made the size of the other: cut to its shape around the middle, and resized by
    Pillow's bicubic filter.
    """
    return batch.once("pixel pairs", lambda: _pixel_pairs(batch))


def _pixel_pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    targets = []
    for asked in batch:
        if asked.target is None:
            raise ValueError(f"prompt {asked.prompt!r} names no real picture to compare with")
        targets.append(ImageOps.fit(asked.target, asked.image.size, Image.Resampling.BICUBIC))
    pictures = torch.stack([rgb_pixels(image) for image in batch.images])
    return pictures, torch.stack([rgb_pixels(target) for target in targets])
