"""Pictures of the same prompts side by side, for TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evalfarm.rows import Picture

GRID_COLUMNS, GRID_PICTURES = 8, 48
GRID_PICTURE_PX = 192
"""A picture's longer side, at most: 48 of 512 pixels would be some 15 MB at each step."""


def picture_grid(folder: Path, pictures: Sequence[Picture]) -> NDArray[np.uint8] | None:
    """The first pictures side by side, uint8 RGB height width 3; None if there is none.

    A picture that failed leaves its place grey, so that each prompt keeps its own.
    """
    shown = pictures[:GRID_PICTURES]
    images = [_thumbnail(folder / p.file) if p.file else None for p in shown]
    sizes = [image.size for image in images if image]
    if not sizes:
        return None
    width, height = sizes[0]
    rows = -(-len(images) // GRID_COLUMNS)
    grid = Image.new("RGB", (width * min(len(images), GRID_COLUMNS), height * rows), "gray")
    for number, image in enumerate(images):
        if image:
            grid.paste(image, (number % GRID_COLUMNS * width, number // GRID_COLUMNS * height))
    return np.asarray(grid)


def _thumbnail(path: Path) -> Image.Image | None:
    if not path.is_file():
        return None
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((GRID_PICTURE_PX, GRID_PICTURE_PX))
    return image
