"""What terms that look at the denoiser's answer hold in the backward pass, beside the denoiser.

A picture is decoded again there, one piece of a batch at a time; what read it is held until then.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, prod
from pathlib import Path

from launcher.plan.blocks import Block
from launcher.plan.headers import Shapes, read_header
from launcher.plan.pickled import read_pickled
from trainer.config import TrainConfig

FP32 = 4  # bytes: what judges pictures is not rounded, whatever the precision of the run
# trainer/objectives/decoding.py: pixels that are decoded at once.
PIXELS_AT_ONCE = 512 * 512
# Of a line that nothing is known of: as wide as PaddleOCR's are at least. trainer/models/
# recogniser.py: crops are padded to a multiple of the step.
CROP_HEIGHT_PX, CROP_WIDTH_PX, WIDTH_STEP_PX = 48, 320, 32
# Of a crop of 48 x 320 pixels, by PP-OCRv6 small: what torch's saved_tensors_hooks see of a forward
# pass, FlopCounterMode's count of it and of the gradient to the pixels, and the weights.
CROP_BYTES = 57_770_000
CROP_FLOP = 2.18e9
CROP_BACKWARD_FLOP = 2.01e9
RECOGNISER_BYTES = 21_070_000
# AnyText trains on so many lines of a picture at most (Tuo et al. 2023); drawn words are one.
LINES = 5


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Frozen networks that look at the pictures or latents that a step has made."""

    weights: float = 0.0
    """Bytes."""
    kept: float = 0.0
    """Bytes that they keep of a picture for the backward pass."""
    flop: float = 0.0
    """Operations for a picture, there and back."""
    assumed: tuple[str, ...] = ()
    """What is not known and how it is counted: a line each."""

    def __add__(self, other: "Judges") -> "Judges":
        return Judges(
            weights=self.weights + other.weights,
            kept=self.kept + other.kept,
            flop=self.flop + other.flop,
            assumed=self.assumed + other.assumed,
        )


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Latents become pictures that the gradient passes through."""

    kept: int
    """Elements that are held of a picture while it is decoded again."""
    pictures: int
    """That are decoded at once."""
    flop: float
    """For a picture: there, again, and back to the latents, whose way is as long."""


def decoding_of(decoder: list[Block], height: int, width: int) -> Decoding:
    """What it takes to decode pictures of so many pixels."""
    kept = sum(block.kept(lambda _: False, checkpointing=False).stays for block in decoder)
    return Decoding(
        kept=kept,
        pictures=max(1, PIXELS_AT_ONCE // (height * width)),
        flop=3.0 * sum(block.flop for block in decoder),
    )


def term_judges(config: TrainConfig, latents: tuple[int, int]) -> Judges:
    """Those of a recipe's terms, on latents of this height and width."""
    judges = Judges()
    if config.objective.ocr:  # the original is read too, without a gradient
        words = config.data.words
        width_px = crop_width_px(words.height, words.width) if words else CROP_WIDTH_PX
        judges += recogniser(1 if words else LINES, width_px, readings=2)
    if config.objective.characters:
        judges += _segmenter(config.objective.characters.segmenter, *latents)
    return judges


def crop_width_px(height: int, width: int) -> int:
    """Of a line that is as wide as a picture of this size is."""
    return WIDTH_STEP_PX * ceil(CROP_HEIGHT_PX * width / height / WIDTH_STEP_PX)


def recogniser(lines: int, width_px: int, *, readings: int) -> Judges:
    """PP-OCR's, that reads so many lines of a picture so often, once of these with a gradient."""
    crops = lines * width_px / CROP_WIDTH_PX
    return Judges(
        weights=RECOGNISER_BYTES,
        kept=crops * CROP_BYTES,
        flop=crops * (readings * CROP_FLOP + CROP_BACKWARD_FLOP),
        assumed=(
            f"the recogniser is PP-OCRv6 small and reads {lines} line{'s' * (lines > 1)} of "
            f"{CROP_HEIGHT_PX} x {width_px} pixels in a picture, which keep "
            f"{crops * CROP_BYTES / 2**20:.0f} MiB",
        ),
    )


def _segmenter(path: Path, height: int, width: int) -> Judges:
    try:
        shapes = _shapes_in(path)
    except (OSError, ValueError) as error:
        return Judges(assumed=(f"the segmenter is not counted: {error}",))
    grids = {
        name: _positions(name, shapes, height, width)
        for name, shape in shapes.items()
        if len(shape) == 4
    }
    kept = sum(_kept(name, shapes[name]) * positions for name, positions in grids.items())
    flop = sum(2 * prod(shapes[name]) * positions for name, positions in grids.items())
    return Judges(weights=FP32 * sum(map(prod, shapes.values())), kept=FP32 * kept, flop=2.0 * flop)


@cache  # a page counts its work again and again
def _shapes_in(path: Path) -> Shapes:
    return read_header(path) if path.suffix == ".safetensors" else read_pickled(path)


def _kept(name: str, shape: tuple[int, ...]) -> int:
    """Of a convolution its input, then the normalization's, and what the rectifier has made.

    The second of a pair has that for its input; what the last one makes, cross-entropy keeps.
    """
    made, given = shape[:2]
    if "double_conv" not in name:
        return made
    return 2 * made + (given if "double_conv.0" in name else 0)


def _positions(name: str, shapes: Shapes, height: int, width: int) -> int:
    """Of a U-Net's grid, which each `down` halves and each `up` brings back."""
    part = name.removeprefix("module.").partition(".")[0]
    levels = len({one.removeprefix("module.").partition(".")[0] for one in shapes if "down" in one})
    number = int(part.removeprefix("down").removeprefix("up") or 0) if part[-1].isdigit() else 0
    level = levels - number if part.startswith("up") else number
    return -(-height >> level) * -(-width >> level)
