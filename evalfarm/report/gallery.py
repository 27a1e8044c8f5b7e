"""A checkpoint's pictures as a page shows them: embedded, with what was said of each."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from evalfarm.evaluation import Evaluation
from evalfarm.metrics.base import Column
from evalfarm.report.picture_table import looks_by_picture
from evalfarm.rows import Rows

EMBEDDED_PX = 256
"""The longer side, at most: what is larger becomes a JPEG of this size."""
JPEG_QUALITY = 85
EXTREMES = 6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A picture on the page."""

    prompt: str
    image: str | None = None
    """A data URI."""
    read: str | None = None
    """What OCR read."""
    right: bool = False
    """Whether those are all the words that were asked for."""
    note: str | None = None
    errors: list[str] = field(default_factory=list)
    value: float | None = None
    """What it is shown for, if for a number."""


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """The best and the worst pictures by one column, the most extreme first."""

    column: Column
    best: list[Cell]
    worst: list[Cell]


class Gallery:
    """The pictures of one checkpoint."""

    def __init__(self, evaluation: Evaluation, checkpoint: str) -> None:
        self.evaluation = evaluation
        self.checkpoint = checkpoint
        ledger = evaluation.ledger
        self._pictures = {(p.prompt, p.sample): p for p in ledger.pictures(checkpoint)}
        self._looks = looks_by_picture(ledger.looks(checkpoint))

    def cell(self, prompt: int, sample: int, value: float | None = None) -> Cell | None:
        """One picture; None if nobody has tried to make it yet."""
        picture = self._pictures.get((prompt, sample))
        if picture is None:
            return None
        looks = self._looks.get((prompt, sample), [])
        reading = next((look for look in looks if "read" in look.detail), None)
        return Cell(
            prompt=self.evaluation.suite.prompts[prompt].text,
            image=embedded(self.evaluation.folder / picture.file) if picture.file else None,
            read=reading.detail["read"] if reading else None,
            right=reading is not None and reading.numbers.get("accuracy") == 1,
            note=picture.note,
            errors=[text for text in (picture.error, *(look.error for look in looks)) if text],
            value=value,
        )

    def rows(self, metric: str) -> Rows:
        """What a metric says of them."""
        return self.evaluation.ledger.rows(self.checkpoint, metric)

    def prompt_means(self) -> dict[tuple[int, str, str], float]:
        """By prompt, metric and number, the mean over the prompt's pictures."""
        found: dict[tuple[int, str, str], list[float]] = {}
        for (prompt, _), looks in self._looks.items():
            for look in looks:
                for name, value in look.numbers.items():
                    found.setdefault((prompt, look.metric, name), []).append(value)
        return {place: float(np.mean(values)) for place, values in found.items()}


def extremes(gallery: Gallery) -> list[Extremes]:
    """Of each metric the best and worst pictures, by that of its numbers that tells most apart."""
    found = []
    for metric in gallery.evaluation.metrics.values():
        columns = [column for column in metric.columns if column.mean_of]
        if not columns:
            continue
        rows = gallery.rows(metric.rows)
        if not len(rows):
            continue
        column = max(columns, key=lambda c: len(np.unique(rows.numbers[c.mean_of or ""])))
        numbers = rows.numbers[column.mean_of or ""]
        order = np.argsort(-numbers if column.higher_is_better else numbers, kind="stable")
        count = min(EXTREMES, len(order) // 2)
        if not count or numbers[order[0]] == numbers[order[-1]]:
            continue
        best, worst = order[:count], order[::-1][:count]
        found.append(
            Extremes(
                column=column,
                best=_cells(gallery, rows, numbers, best),
                worst=_cells(gallery, rows, numbers, worst),
            )
        )
    return found


def embedded(path: Path) -> str | None:
    """A picture as a data URI: its own file where it is small, else a smaller JPEG."""
    if not path.is_file():
        return None
    data, kind = path.read_bytes(), path.suffix.removeprefix(".")
    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) > EMBEDDED_PX:
            shown, buffer = image.convert("RGB"), io.BytesIO()
            shown.thumbnail((EMBEDDED_PX, EMBEDDED_PX))
            shown.save(buffer, "JPEG", quality=JPEG_QUALITY)
            data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _cells(
    gallery: Gallery, rows: Rows, numbers: Sequence[float] | np.ndarray, places: np.ndarray
) -> list[Cell]:
    cells = (
        gallery.cell(int(rows.prompts[place]), int(rows.samples[place]), float(numbers[place]))
        for place in places
    )
    return [cell for cell in cells if cell]
