"""The OCR loss: what a frozen recogniser reads in the denoiser's answer, line by line.

    ctc CTC(reading, text) / time steps + perceptual mean (features - features of the original)²

CTC is that of Graves et al. (2006), both parts and their scale are AnyText's (Tuo et al. 2023). A
sample's loss is the mean over its lines. Only lines count that the recogniser can read in the
original picture, and their text is what it reads there, which differs from what the sample tells in
case alone: drawn words stand in capitals, whatever their caption has.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.loader import Batch, TextLine
from trainer.models.family import Family
from trainer.models.recogniser import Reading, Recogniser, load_recogniser, padded
from trainer.objectives.config import OcrLossConfig
from trainer.objectives.decoding import decode, keep_little
from trainer.objectives.line_crops import Place, crop_line, fault_of, place_of
from trainer.objectives.terms import Denoised, Said, Term


class Line(NamedTuple):
    """A line of text that lies well in its picture."""

    row: int
    """Which sample of the batch shows it."""
    text: str
    place: Place


class Readable(NamedTuple):
    """A line as the recogniser reads it in the original picture."""

    line: Line
    classes: list[int]
    """Of its text."""
    features: Tensor
    """time dim."""


class OcrLoss(Term):
    """See above; the gradient goes through recogniser, crop and decoder into the answer."""

    def __init__(self, family: Family, config: OcrLossConfig) -> None:
        super().__init__(family, config)
        self.recogniser: Recogniser = load_recogniser(config.recogniser).to(family.device)
        self.ctc, self.perceptual = config.ctc, config.perceptual
        keep_little(family)

    def __call__(self, denoised: Denoised, batch: Batch) -> Said:
        assert batch.lines is not None, "a recipe with this term asks for the lines"
        left_out: Counter[str] = Counter()
        lines = list(_lines_of(batch.lines, self._size(denoised), left_out))
        readable = self._readable(lines, self._originals(lines, denoised, batch), left_out)
        losses = denoised.timesteps.new_zeros(len(batch.lines), dtype=torch.float32)
        if not readable:
            return Said(losses, left_out)
        shown = [one.line for one in readable]
        found = self._losses(readable, self._pictures(shown, denoised.clean))
        rows = torch.tensor([line.row for line in shown], device=losses.device)
        lines_each = torch.bincount(rows, minlength=len(losses)).clamp(min=1)
        return Said(losses.index_add(0, rows, found) / lines_each, left_out)

    def _size(self, denoised: Denoised) -> tuple[int, int]:
        """The pictures' height and width in pixels."""
        height, width = denoised.latents.shape[-2:]
        return height * self.family.latent_scale, width * self.family.latent_scale

    @torch.no_grad()
    def _originals(
        self, lines: Sequence[Line], denoised: Denoised, batch: Batch
    ) -> dict[int, Tensor]:
        """By row, the pictures with these lines; decoded where only their latents are cached."""
        if batch.images is None:
            return self._pictures(lines, denoised.latents)
        images = batch.images
        return {row: images[row].to(denoised.latents) / 255 for row in _rows(lines)}

    def _pictures(self, lines: Iterable[Line], latents: Tensor) -> dict[int, Tensor]:
        """By row, what these latents show, where there are lines."""
        rows = _rows(lines)
        return dict(zip(rows, decode(self.family, latents[rows]), strict=True)) if rows else {}

    @torch.no_grad()
    def _readable(
        self, lines: Sequence[Line], originals: Mapping[int, Tensor], left_out: Counter[str]
    ) -> list[Readable]:
        """The lines that the recogniser reads right in these pictures."""
        readable = []
        for numbers, reading in self._read(lines, originals):
            texts = [text for text, _ in self.recogniser.decode(reading)]
            for number, text, features in zip(numbers, texts, reading.features, strict=True):
                line = lines[number]
                classes = self.recogniser.encode(text)
                if classes is not None and text.casefold() == line.text.casefold():
                    readable.append(Readable(line, classes, features))
                else:
                    left_out[self._why_not(line.text, reading)] += 1
        return readable

    def _why_not(self, text: str, reading: Reading) -> str:
        """Why a recogniser cannot read a text."""
        classes = self.recogniser.encode(text)
        if classes is None:
            return "outside_list"
        # A blank has to stand between two of a kind.
        needed = len(classes) + sum(first == second for first, second in pairwise(classes))
        return "too_long" if needed > reading.log_probabilities.shape[1] else "unreadable"

    def _losses(self, readable: Sequence[Readable], pictures: Mapping[int, Tensor]) -> Tensor:
        """The loss of each line in these pictures: lines."""
        losses: dict[int, Tensor] = {}
        for numbers, reading in self._read([one.line for one in readable], pictures):
            group = [readable[number] for number in numbers]
            losses |= zip(numbers, self._compare(reading, group), strict=True)
        return torch.stack([losses[number] for number in range(len(readable))])

    def _compare(self, reading: Reading, wanted: Sequence[Readable]) -> Tensor:
        losses = torch.zeros(len(wanted), device=reading.features.device)
        if self.ctc:
            texts = [one.classes for one in wanted]
            losses = losses + self.ctc * ctc_per_step(reading.log_probabilities, texts)
        if self.perceptual:
            features = torch.stack([one.features for one in wanted])
            distances = (reading.features - features).square().mean(dim=(1, 2))
            losses = losses + self.perceptual * distances
        return losses

    def _read(
        self, lines: Sequence[Line], pictures: Mapping[int, Tensor]
    ) -> Iterator[tuple[list[int], Reading]]:
        """What the recogniser makes of lines, those of one width together, with their numbers.

        So no line is padded by more than it would be alone, and what is read in it does not hang
        on the others.
        """
        height_px = self.recogniser.height_px
        crops = [crop_line(pictures[line.row], line.place, height_px) for line in lines]
        groups: dict[int, list[int]] = defaultdict(list)
        for number, crop in enumerate(crops):
            groups[padded([crop], height_px).shape[-1]].append(number)
        for numbers in groups.values():
            batch = padded([crops[number] for number in numbers], height_px)
            yield numbers, self.recogniser(batch)


def ctc_per_step(log_probabilities: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """-log P of each text (its classes) by log probabilities batch time classes, over time: batch.

    Class 0 is the blank. A text that the time is too short for is an error of ours: its loss would
    be infinite.
    """
    lines, time = log_probabilities.shape[:2]
    losses = F.ctc_loss(
        log_probabilities.transpose(0, 1),
        torch.tensor([c for text in texts for c in text], device=log_probabilities.device),
        input_lengths=torch.full((lines,), time),
        target_lengths=torch.tensor([len(text) for text in texts]),
        reduction="none",
    )
    return losses / time


def _lines_of(
    lines: Sequence[Sequence[TextLine]], size: tuple[int, int], left_out: Counter[str]
) -> Iterator[Line]:
    """Those that can be cut out of pictures of this height and width."""
    for row, of_picture in enumerate(lines):
        if not of_picture:
            left_out["without_text"] += 1
        for text, polygon in of_picture:
            place = place_of(polygon, letters=len(text))
            fault = fault_of(place, *size) if text.strip() else "empty"
            if fault:
                left_out[fault] += 1
            else:
                yield Line(row, text, place)


def _rows(lines: Iterable[Line]) -> list[int]:
    return sorted({line.row for line in lines})
