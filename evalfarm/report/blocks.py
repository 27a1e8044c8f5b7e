"""The grid of 2 x 2 blocks of a suite that has them: does a picture fit among others?

In each block the picture of a prompt stands at the top left, and three fillers around it.
"""

import io
from collections.abc import Container, Sequence
from itertools import cycle, islice
from pathlib import Path

from PIL import Image, ImageOps

from cluster.run_folder import write_bytes
from evalfarm.evaluation import Evaluation, picture_folder
from evalfarm.references import picture_names
from evalfarm.rows import Picture
from evalfarm.suite import Suite

BLOCKS_PER_ROW = 4
FILLERS = 3
PLACES = ((0, 0), (1, 0), (0, 1), (1, 1))
GAP_PX = 8
NOT_THERE = "gray"


def write_block_grids(evaluation: Evaluation, checkpoints: Container[str]) -> None:
    """Write grids/CHECKPOINT.png for each of these that has none, if the suite has blocks."""
    if evaluation.suite.blocks is None:
        return
    for checkpoint in evaluation.ledger.checkpoints("weights"):
        path = evaluation.folder / "grids" / f"{picture_folder(checkpoint)}.png"
        if checkpoint.checkpoint in checkpoints and not path.exists():
            pictures = evaluation.ledger.pictures(checkpoint.checkpoint)
            buffer = io.BytesIO()
            block_grid(evaluation.suite, evaluation.folder, pictures).save(buffer, "png")
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, buffer.getvalue())


def block_grid(suite: Suite, folder: Path, pictures: Sequence[Picture]) -> Image.Image:
    """A block for each prompt's first picture, RGB. What failed leaves its place grey.

    `pictures` are all those of a checkpoint, in the order of the suite.
    """
    assert suite.blocks is not None
    shown = [p for p in pictures if p.sample == 0]
    asked = [_file(folder, p) for p in shown if not suite.prompts[p.prompt].filler]
    made = [_file(folder, p) for p in shown if suite.prompts[p.prompt].filler]
    fillers = cycle(_in_folder(suite.blocks.filler_folder) or made or [None])
    size = (suite.sampling.width, suite.sampling.height)
    blocks = [_block([file, *islice(fillers, FILLERS)], size) for file in asked]
    return _in_rows(blocks, (2 * size[0], 2 * size[1]))


def _file(folder: Path, picture: Picture) -> Path | None:
    return folder / picture.file if picture.file else None


def _in_folder(folder: Path | None) -> list[Path | None]:
    return [folder / name for name in picture_names(folder)] if folder else []


def _block(files: Sequence[Path | None], size: tuple[int, int]) -> Image.Image:
    block = Image.new("RGB", (2 * size[0], 2 * size[1]), NOT_THERE)
    for file, (column, row) in zip(files, PLACES, strict=True):
        if file:
            with Image.open(file) as image:
                cell = ImageOps.fit(image.convert("RGB"), size)
            block.paste(cell, (column * size[0], row * size[1]))
    return block


def _in_rows(blocks: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image:
    columns = min(len(blocks), BLOCKS_PER_ROW)
    rows = -(-len(blocks) // BLOCKS_PER_ROW)
    width, height = size[0] + GAP_PX, size[1] + GAP_PX
    grid = Image.new("RGB", (columns * width - GAP_PX, rows * height - GAP_PX), "white")
    for number, block in enumerate(blocks):
        row, column = divmod(number, BLOCKS_PER_ROW)
        grid.paste(block, (column * width, row * height))
    return grid
