"""Pictures as the networks that score see them: RGB in [0, 1]."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def rgb_pixels(image: Image.Image) -> Tensor:
    """A picture's values from 0 to 1: 3 height width."""
    levels = np.array(image.convert("RGB"))
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 255


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pictures at another size, bicubic and antialiased as Pillow does: batch 3 height width.

    The gradient passes. Nothing is rounded, and as in torchvision nothing is clipped.
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(
        pixels, (height, width), mode="bicubic", antialias=True, align_corners=False
    )


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pictures less the mean of each colour, over its deviation."""
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]
