"""Where PP-OCR finds lines of text in a picture that is still being learnt from."""

from collections import Counter

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

    def __call__(self, picture: Tensor, height_px: int, counts: Counter[str]) -> list[Tensor]:
        """The lines in RGB, 3 height width, upright and so high: each 3 `height_px` width.

        Those that cannot be cut out are counted by why.
        """
        (lines,) = self.reader.read([_image(picture)])
        found, (high, wide) = [], picture.shape[1:]
        for line in lines:
            place = place_of(np.array(line.polygon, np.float64), letters=len(line.text))
            if fault := fault_of(place, high, wide):
                counts[fault] += 1
            else:
                found.append(crop_line(picture, place, height_px))
        return found


def _image(picture: Tensor) -> Image.Image:
    levels = (picture.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
