"""Lines of text as a frozen recogniser reads them in pictures, and which of them it can read."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.data.loader import TextLine
from trainer.models.recogniser import Reading, Recogniser, in_batches
from trainer.objectives.ctc import steps_needed
from trainer.objectives.line_crops import Place, crop_line, fault_of, place_of


class Line(NamedTuple):
    """A line of text that lies well in its picture."""

    row: int
    """Which sample of the batch shows it."""
    text: str
    place: Place


class Legible(NamedTuple):
    """A line as the recogniser reads it in the original picture."""

    line: Line
    classes: list[int]
    """Of its text."""
    features: Tensor
    """time dim."""


def lines_of(
    lines: Sequence[Sequence[TextLine]], size: tuple[int, int], left_out: Counter[str]
) -> list[Line]:
    """Those that can be cut out of pictures of this height and width; others are counted."""
    found = []
    for row, of_picture in enumerate(lines):
        if not of_picture:
            left_out["without_text"] += 1
        for text, polygon in of_picture:
            place = place_of(polygon, letters=len(text))
            fault = fault_of(place, *size) if text.strip() else "empty"
            if fault:
                left_out[fault] += 1
            else:
                found.append(Line(row, text, place))
    return found


def read_lines(
    recogniser: Recogniser, lines: Sequence[Line], pictures: Mapping[int, Tensor]
) -> Iterator[tuple[list[int], Reading]]:
    """What the recogniser makes of lines in pictures (3 height width, by row), and their numbers.

    Those of one width come together.
    """
    height_px = recogniser.height_px
    crops = [crop_line(pictures[line.row], line.place, height_px) for line in lines]
    for numbers, batch in in_batches(crops):
        yield numbers, recogniser(batch)


@torch.no_grad()
def legible_lines(
    recogniser: Recogniser,
    lines: Sequence[Line],
    originals: Mapping[int, Tensor],
    left_out: Counter[str],
) -> list[Legible]:
    """The lines that are read right, case aside, in the original pictures; others are counted."""
    legible = []
    for numbers, reading in read_lines(recogniser, lines, originals):
        texts = [text for text, _ in recogniser.decode(reading)]
        for number, text, features in zip(numbers, texts, reading.features, strict=True):
            line, classes = lines[number], recogniser.encode(text)
            if classes is not None and text.casefold() == line.text.casefold():
                legible.append(Legible(line, classes, features))
            else:
                steps = reading.log_probabilities.shape[1]
                left_out[_why_not(recogniser.encode(line.text), steps)] += 1
    return legible


def _why_not(classes: Sequence[int] | None, steps: int) -> str:
    """Why a recogniser does not read a text of these classes in so many steps."""
    if classes is None:
        return "outside_list"
    return "too_long" if steps_needed(classes) > steps else "unreadable"
