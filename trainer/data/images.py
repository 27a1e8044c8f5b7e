"""Pictures from strangers: the only place that decodes one, and what becomes of each odd kind.

docs/training.md, "Pictures of any kind", has the decisions as a table.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

# Pillow reads some fifty formats, one of them by running Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
# Name of the member in a shard that holds a picture of these formats.
IMAGE_MEMBERS = ("png", "jpg", "jpeg", "webp", "avif", "gif", "bmp", "tif", "tiff")
# Less than one pixel of a Stable Diffusion latent; also the tracking pixels of web pages.
MIN_SIDE_PX = 8
# A header of this many bytes mostly tells the size; a TIFF may keep it at the end of the file.
HEAD_BYTES = 1 << 16

# EXIF orientation -> what brings the picture upright.
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


class Unusable(ValueError):
    """A sample that cannot be trained on; `reason` is one of a few, to be counted."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(f"{reason}: {detail}" if str(detail) else reason)
        self.reason = reason


def decode_image(data: bytes, shrink: float = 1.0) -> Image.Image:
    """The picture, RGB, upright, what is transparent on white; Unusable if it is none.

    A JPEG that is to be made smaller, its sides divided by `shrink`, may come at 1/2, 1/4 or 1/8 of
    its size, and no smaller than asked for: its decoder averages the pixels as it goes.
    """
    with _opened(data) as image:
        if shrink >= 2:
            image.draft(None, (int(image.width / shrink), int(image.height / shrink)))
        turn = TURNS.get(_orientation(image))
        upright = image.transpose(turn) if turn is not None else image
        return _to_rgb(upright)


def decode_mask(data: bytes) -> Image.Image:
    """A mask: the stored levels, mode L; Unusable if it cannot be decoded."""
    with _opened(data) as image:
        return image.convert("L")


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) of what `decode_image` returns, from the header alone.

    `data` may be the head of the file; Unusable if it does not tell.
    """
    with _opened(data) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in SIDEWAYS else (width, height)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture, its header read; whatever Pillow raises on it becomes an Unusable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that we do not use
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_side(image.size)
                yield image
        except (Unusable, MemoryError):
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
            raise Unusable(f"more than {limit} million pixels") from None
        except UnidentifiedImageError:
            raise Unusable("cannot identify image file", f"none of {', '.join(FORMATS)}") from None
        except Exception as error:  # plugins meet bad bytes with every kind of error there is
            raise Unusable("cannot be decoded", error or type(error).__name__) from None


def _check_side(size: tuple[int, int]) -> None:
    if min(size) < MIN_SIDE_PX:
        raise Unusable(f"less than {MIN_SIDE_PX} pixels a side", f"{size[0]} x {size[1]}")


def _orientation(image: Image.Image) -> int:
    """What the header says; 1 (upright) where its EXIF cannot be read."""
    # Pillow would decode a whole PNG to look for EXIF behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    if image.mode in ("I", "F"):
        raise Unusable("levels of 32 bits", "no range is agreed for them")
    return image.convert("RGB")
