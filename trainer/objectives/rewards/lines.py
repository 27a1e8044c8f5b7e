"""Where PP-OCR finds lines of text in a picture that is still being learnt from."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.models.ocr import OcrReader, missing_ocr
from trainer.objectives.line_crops import crop_line, fault_of, place_of


class DetectedLines:
    """Finds lines without a gradient, and cuts them out with one."""

    def __init__(self) -> None:
        if missing := missing_ocr():
            raise ValueError(f"train.reward.line detected needs PP-OCR, which is {missing}")
        self.reader = OcrReader()

    def __call__(self, picture: Tensor, height_px: int) -> list[Tensor]:
        """The lines in RGB, 3 height width, upright and so high: each 3 `height_px` width."""
        (lines,) = self.reader.read([_image(picture)])
        polygons = [(np.array(line.polygon, np.float64), len(line.text)) for line in lines]
        places = [place_of(polygon, letters=letters) for polygon, letters in polygons]
        high, wide = picture.shape[1:]
        there = [place for place in places if fault_of(place, high, wide) is None]
        return [crop_line(picture, place, height_px) for place in there]


def _image(picture: Tensor) -> Image.Image:
    levels = (picture.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
