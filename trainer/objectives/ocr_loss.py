"""The OCR loss: what a frozen recogniser reads in the denoiser's answer, line by line.

    ctc CTC(reading, text) / time steps + perceptual mean (features - features of the original)²

CTC is that of Graves et al. (2006), both parts and their scale are AnyText's (Tuo et al. 2023). A
sample's loss is the mean over its lines. Only lines count that the recogniser can read in the
original picture, and their text is what it reads there, which differs from what the sample tells in
case alone: drawn words stand in capitals, whatever their caption has.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.data.loader import Batch
from trainer.models.family import Family
from trainer.models.recogniser import Reading, Recogniser, load_recogniser
from trainer.objectives.config import OcrLossConfig
from trainer.objectives.ctc import ctc_per_step
from trainer.objectives.decoding import decode
from trainer.objectives.legible_lines import Legible, Line, legible_lines, lines_of, read_lines
from trainer.objectives.term import Denoised, Said, Term


class OcrLoss(Term):
    """See above; the gradient goes through recogniser, crop and decoder into the answer."""

    def __init__(self, family: Family, config: OcrLossConfig) -> None:
        super().__init__(family, config)
        self.recogniser: Recogniser = load_recogniser(config.recogniser).to(family.device)
        self.ctc, self.perceptual = config.ctc, config.perceptual

    def __call__(self, denoised: Denoised, batch: Batch) -> Said:
        assert batch.lines is not None, "a recipe with this term asks for the lines"
        left_out: Counter[str] = Counter()
        lines = lines_of(batch.lines, self._size(denoised), left_out)
        originals = self._originals(lines, denoised, batch)
        legible = legible_lines(self.recogniser, lines, originals, left_out)
        losses = denoised.timesteps.new_zeros(len(batch.lines), dtype=torch.float32)
        if not legible:
            return Said(losses, left_out)
        shown = [one.line for one in legible]
        found = self._losses(legible, self._pictures(shown, denoised.clean))
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

    def _losses(self, legible: Sequence[Legible], pictures: Mapping[int, Tensor]) -> Tensor:
        """The loss of each line in these pictures: lines."""
        losses: dict[int, Tensor] = {}
        lines = [one.line for one in legible]
        for numbers, reading in read_lines(self.recogniser, lines, pictures):
            wanted = [legible[number] for number in numbers]
            losses |= zip(numbers, self._compare(reading, wanted), strict=True)
        return torch.stack([losses[number] for number in range(len(legible))])

    def _compare(self, reading: Reading, wanted: Sequence[Legible]) -> Tensor:
        losses = torch.zeros(len(wanted), device=reading.features.device)
        if self.ctc:
            texts = [one.classes for one in wanted]
            losses = losses + self.ctc * ctc_per_step(reading.log_probabilities, texts)
        if self.perceptual:
            features = torch.stack([one.features for one in wanted])
            distances = (reading.features - features).square().mean(dim=(1, 2))
            losses = losses + self.perceptual * distances
        return losses


def _rows(lines: Iterable[Line]) -> list[int]:
    return sorted({line.row for line in lines})
