"""Where a picture is cut, and to what size it is scaled, so that it fills its frame.

A frame is one affine map: a box of whole pixels of the picture, scaled to the frame's size,
mirrored or not. The picture, its mask and the corners of its words all go through the same one. Its
chance follows from a place in the run's stream, as that of the noise does.
"""

import random
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.data.config import DataConfig


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What training sees of one picture."""

    source: Size
    """The whole picture, upright."""
    left: int
    """Pixels of the picture left of the box."""
    top: int
    """Pixels of the picture above the box."""
    box: Size
    """What is kept: the largest part of the picture that has the frame's shape."""
    size: Size
    """What the box is scaled to."""
    flip: bool
    """Whether left and right are swapped after that."""

    @property
    def conditioning(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's sizes: original height, width; crop top, left; target height, width.

        The crop is in pixels of the picture after it was scaled and mirrored (Podell et al. 2023).
        """
        left = self.source.width - self.left - self.box.width if self.flip else self.left
        return (
            self.source.height,
            self.source.width,
            round(self.top * self.size.height / self.box.height),
            round(left * self.size.width / self.box.width),
            self.size.height,
            self.size.width,
        )

    def move(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points (… 2; x and y in pixels of the picture) in pixels of the frame, also outside."""
        scale = np.divide(self.size, self.box)
        moved: NDArray[np.float64] = (np.asarray(points) - (self.left, self.top)) * scale
        if self.flip:
            moved[..., 0] = self.size.width - moved[..., 0]
        return moved


def frame_chance(seed: int, position: int) -> random.Random:
    """The chance of the frame at a position of a run's stream."""
    return random.Random(f"letterpress-frame/{seed}/{position}")


def choose_frame(
    source: Size,
    size: Size,
    *,
    crop: Literal["center", "random"],
    flip: float,
    chance: random.Random,
) -> Frame:
    """The frame of `size` on a picture of size `source`, mirrored with probability `flip`."""
    # Always three draws: switching one key on leaves what the others chose. And only random(), the
    # one method whose numbers Python promises to keep.
    across, down, mirror = chance.random(), chance.random(), chance.random()
    if crop == "center":
        across = down = 0.5
    box = _largest_box(source, size)
    return Frame(
        source=source,
        left=int(across * (source.width - box.width + 1)),
        top=int(down * (source.height - box.height + 1)),
        box=box,
        size=size,
        flip=mirror < flip,
    )


def spoils_text(config: DataConfig, has_words: bool) -> str | None:
    """A warning in one line if words that the samples show would be mirrored or cut."""
    spoils, cures = [], []
    if config.flip > 0:
        spoils.append(f"flip {config.flip} mirrors letters")
        cures.append("flip 0")
    if config.crop == "random":
        spoils.append("crop random cuts words")
        cures.append("crop center")
    if not has_words or not spoils:
        return None
    return f"the samples show words, but {' and '.join(spoils)}: set {' and '.join(cures)}"


def quotes_words(caption: str) -> bool:
    """Whether a caption names words that the picture shows: in quotes, of any kind."""
    return bool(quoted_texts(caption))


def quoted_texts(caption: str) -> list[str]:
    """The texts that the picture of a caption shows, as they are written: in quotes, of any kind.

    An apostrophe is no quote.
    """
    quoted = r"(?<!\w)'[^']+'(?!\w)|\"[^\"]+\"|\u201c[^\u201d]+\u201d|\u2018[^\u2019]+\u2019"
    return [found[1:-1].strip() for found in re.findall(quoted, caption) if found[1:-1].strip()]


def _largest_box(source: Size, size: Size) -> Size:
    # In whole numbers, which round alike on every machine.
    if source.width * size.height >= source.height * size.width:
        return Size(max(1, _ratio(source.height * size.width, size.height)), source.height)
    return Size(source.width, max(1, _ratio(source.width * size.height, size.width)))


def _ratio(dividend: int, divisor: int) -> int:
    return (2 * dividend + divisor) // (2 * divisor)
