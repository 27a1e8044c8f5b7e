"""Pictures and masks as tensors: cut, scaled and mirrored as their frame says.

Scaled by torch's antialiased bicubic filter for bytes: Pillow's, to a few levels, in a fifth of the
time where the processor has AVX2.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.data.framing import Frame, Size

# A JPEG can be decoded at 1/2, 1/4 or 1/8 straight from its cosine coefficients. Done where it
# leaves so many times the frame's pixels each way, which is within 1 dB of decoding it whole
# (benchmarks/data_loading.py).
KEPT_DETAIL = 2


def spare_detail(frame: Frame) -> float:
    """How many times smaller the picture may be decoded for this frame, at least 1."""
    shrink = min(frame.box.width / frame.size.width, frame.box.height / frame.size.height)
    return max(1.0, shrink / KEPT_DETAIL)


def framed_image(image: Image.Image, frame: Frame) -> Tensor:
    """A picture, upright, in its frame: uint8, channels height width.

    It may have been decoded at 1/2, 1/4 or 1/8; ValueError if it is not of the size that the frame
    was chosen for.
    """
    reduced = max(1, round(frame.source.width / image.width))
    if image.size != tuple(-(-side // reduced) for side in frame.source):
        raise ValueError(f"is {_text(image.size)} pixels, not {_text(frame.source)} as indexed")
    left, top = round(frame.left / reduced), round(frame.top / reduced)
    right = round((frame.left + frame.box.width) / reduced)
    bottom = round((frame.top + frame.box.height) / reduced)
    # With an axis for the batch from the start: torch then sees that the channels lie last, and
    # takes its fast filter.
    pixels = torch.from_numpy(np.array(image)).reshape(1, image.height, image.width, -1)
    part = pixels[:, top:bottom, left:right].permute(0, 3, 1, 2)
    size = (frame.size.height, frame.size.width)
    if part.shape[2:] != size:
        part = torch.nn.functional.interpolate(part, size, mode="bicubic", antialias=True)
    return part[0].flip(2) if frame.flip else part[0]


def framed_mask(mask: Image.Image, frame: Frame) -> Tensor:
    """A mask, mode L and of the picture's size, in its frame: float, 1 height width, 0 to 1."""
    return framed_image(mask, frame).float() / 255


def framed_labels(labels: Image.Image, frame: Frame) -> Tensor:
    """A number for each pixel, mode L and of the picture's size, in its frame: int64, height width.

    Each pixel takes the label at its middle.
    """
    width, height = frame.size
    box = (frame.left, frame.top, frame.left + frame.box.width, frame.top + frame.box.height)
    framed = labels.resize((width, height), Image.Resampling.NEAREST, box)
    found = torch.from_numpy(np.array(framed)).long()
    return found.flip(1) if frame.flip else found


def _text(size: tuple[int, int] | Size) -> str:
    return " x ".join(map(str, size))
