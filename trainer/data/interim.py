"""To be deleted: what ShardFolder does not have yet, under the names that it will have."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.Image import Transpose

from trainer.data.shards import ShardFolder

TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def decode_image(data: bytes, shrink: float = 1.0) -> Image.Image:
    """images.decode_image: upright RGB, decoded at 1/2, 1/4 or 1/8 if `shrink` allows."""
    image = Image.open(io.BytesIO(data))
    if shrink >= 2:
        image.draft(None, (int(image.width / shrink), int(image.height / shrink)))
    image.load()
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image if turn is None else image.transpose(turn)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def sizes(shards: ShardFolder) -> NDArray[np.int64]:
    """shards.sizes: width and height of every picture, upright."""
    there: Any = getattr(shards, "sizes", None)
    if there is not None:
        return np.asarray(there)
    found: list[tuple[int, int]] = []
    for number in range(len(shards)):
        try:
            image = Image.open(io.BytesIO(shards.read(number, shards.image_member)))
        except (OSError, ValueError, SyntaxError):
            found.append(found[-1] if found else (0, 0))
            continue
        turned = image.format != "PNG" and image.getexif().get(0x0112, 1) >= 5
        found.append((image.height, image.width) if turned else image.size)
    whole = next((size for size in found if size != (0, 0)), (8, 8))
    return np.array([size if size != (0, 0) else whole for size in found])


def image(shards: ShardFolder, number: int, shrink: float) -> Image.Image:
    """shards.image(number, shrink)."""
    return decode_image(shards.read(number, shards.image_member), shrink)


def mask(shards: ShardFolder, number: int) -> Image.Image | None:
    """shards.mask(number): L, the picture's size, 255 where text is; None if unknown."""
    if "mask.png" not in shards.manifest["members"]:
        return None
    return Image.open(io.BytesIO(shards.read(number, "mask.png"))).convert("L")
