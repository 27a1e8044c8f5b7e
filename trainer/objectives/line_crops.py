"""Lines of text cut out of pictures: upright, of one height, and the gradient passes.

As AnyText does it (Tuo et al. 2023): a similarity transform, which keeps the letters' shape, takes
an upright rectangle to where it is nearest to the line's four corners.
"""

from math import ceil
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

TALL = 1.2
"""A line that is so many times as high as wide is read from the top down, turned to the left."""
SMALLEST_PX = 4
"""Below that there are no letters, but only points."""
MISFIT = 0.25
"""So many heights from its rectangle, a line is mirrored, crossed or all but a triangle."""
OUTSIDE = 0.1
"""So many heights of a line may lie outside of the picture."""


class Place(NamedTuple):
    """Where a line lies: of an upright rectangle around 0, z goes to `middle` + `turn` z.

    Points are complex numbers x + iy, in pixels of the picture, whose edges are at 0 and its size.
    """

    middle: complex
    turn: complex
    """How the rectangle is turned and scaled."""
    width: float
    """Of the rectangle, before it is scaled; not less than 0."""
    height: float
    misfit: float
    """How far the line's corners lie from the rectangle's: root mean square, in pixels."""

    @property
    def height_px(self) -> float:
        """The height of the line in the picture."""
        return abs(self.turn) * self.height

    @property
    def corners(self) -> NDArray[np.float64]:
        """Of the rectangle in the picture, clockwise from the text's own top left: 4 2."""
        found = self.middle + self.turn * _rectangle(self.width, self.height)
        return np.stack([found.real, found.imag], axis=1)

    def moved(self, left: float, top: float) -> "Place":
        """The same place in a picture that is cut so far from the left and from the top."""
        return self._replace(middle=self.middle - complex(left, top))


def place_of(polygon: NDArray[np.float64], *, letters: int) -> Place:
    """Where a line of so many letters lies, by its corners clockwise from its own top left: 4 2.

    A single letter is never turned for being tall: most of them are.
    """
    corners = polygon[:, 0] + 1j * polygon[:, 1]
    width, height = _sides(corners)
    if letters > 1 and height > TALL * width:
        corners, (width, height) = np.roll(corners, -1), (height, width)
    rectangle, middle = _rectangle(width, height), corners.mean()
    # The least squares of Umeyama (1991), which in the plane is a division of complex numbers.
    size = np.vdot(rectangle, rectangle).real
    turn = np.vdot(rectangle, corners - middle) / size if size else 0.0
    distances = np.abs(middle + turn * rectangle - corners)
    return Place(
        complex(middle), complex(turn), width, height, float(np.sqrt(np.mean(distances**2)))
    )


def fault_of(place: Place, height: int, width: int) -> str | None:
    """Why a line cannot be cut out of a picture of this size; None if it can."""
    across_px = abs(place.turn) * place.width
    if min(across_px, place.height_px) < SMALLEST_PX:
        return "too_small"
    if place.misfit > MISFIT * place.height_px:
        return "degenerate"
    beyond = max((-place.corners).max(), (place.corners - (width, height)).max())
    return "outside_frame" if beyond > OUTSIDE * place.height_px else None


def crop_width(place: Place, height_px: int) -> int:
    """Pixels that a line is wide when it is so high."""
    return max(1, round(height_px * place.width / place.height))


def crop_line(pixels: Tensor, place: Place, height_px: int) -> Tensor:
    """A line of a picture (3 height width) in its own proportions: 3 `height_px` width.

    What is shrunk is sampled finer and averaged, so that no pixel goes unseen. What lies outside of
    the picture has the colour of its edge.
    """
    finer = max(1, ceil(place.height_px / height_px))
    size = (1, 3, finer * height_px, finer * crop_width(place, height_px))
    grid = F.affine_grid(_theta(place, pixels), list(size), align_corners=False)
    sampled = F.grid_sample(pixels[None], grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, finer)[0]


def _theta(place: Place, pixels: Tensor) -> Tensor:
    """From the crop to the picture, both from -1 to 1 between their edges: 1 2 3."""
    size = np.array(pixels.shape[:0:-1])  # width, height
    across, down = place.turn * place.width / 2, 1j * place.turn * place.height / 2
    columns = np.array([[z.real, z.imag] for z in (across, down, place.middle)]).T
    theta = 2 * columns / size[:, None] - [[0, 0, 1]]
    return torch.from_numpy(theta)[None].to(pixels)


def _rectangle(width: float, height: float) -> NDArray[np.complex128]:
    """Its corners around 0, clockwise from the top left."""
    x, y = width / 2, height / 2
    return np.array([complex(-x, -y), complex(x, -y), complex(x, y), complex(-x, y)])


def _sides(corners: NDArray[np.complex128]) -> tuple[float, float]:
    """The longer one of the edges along the text, and of those across it."""
    top, right, bottom, left = np.abs(np.roll(corners, -1) - corners)
    return float(max(top, bottom)), float(max(right, left))
