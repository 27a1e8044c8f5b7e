"""Results in TensorBoard, on the training's step axis: a projection of the ledger, no record."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from evalfarm.evaluation import Evaluation
from evalfarm.ledger import Picture

GRID_COLUMNS, GRID_PICTURES = 8, 48


class Board:
    """One suite's curves and grids.

    TensorBoard drops what stands at a later step when an earlier one arrives. So a late result
    makes all be written anew, in a folder that takes the old one's place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._drawn: list[int] = []

    def draw(self, evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> None:
        """Show these rows of the results; those that are shown already stay as they are."""
        rows = sorted(
            (row for row in rows if row["step"] is not None), key=lambda r: int(r["step"])
        )
        new = [row for row in rows if row["step"] not in self._drawn]
        if self._writer is None or (new and self._drawn and new[0]["step"] < self._drawn[-1]):
            self._start_anew()
            new = rows
        assert self._writer is not None
        for row in new:
            self._draw_row(self._writer, evaluation, row)
            self._drawn.append(row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._writer:
            self._writer.close()

    def _start_anew(self) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer, self._drawn = SummaryWriter(self.folder), []

    def _draw_row(self, writer: SummaryWriter, evaluation: Evaluation, row: dict[str, Any]) -> None:
        for key, value in row["values"].items():
            writer.add_scalar(key, value, row["step"])
        writer.add_scalar("pictures/scored", row["n_scored"], row["step"])
        writer.add_scalar("pictures/expected", row["n_expected"], row["step"])
        pictures = evaluation.ledger.pictures(row["checkpoint"])
        grid = picture_grid(evaluation.folder, [p for p in pictures if p.sample == 0])
        if grid is not None:
            writer.add_image("pictures", grid, row["step"], dataformats="HWC")


def picture_grid(folder: Path, pictures: Sequence[Picture]) -> NDArray[np.uint8] | None:
    """The first pictures side by side, uint8 RGB height width 3; None if there is none.

    A picture that failed leaves its place grey, so that each prompt keeps its own.
    """
    shown = pictures[:GRID_PICTURES]
    images = [Image.open(folder / p.file).convert("RGB") if p.file else None for p in shown]
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
