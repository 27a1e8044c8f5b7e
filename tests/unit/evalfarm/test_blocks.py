"""Block grids: each prompt's picture among three fillers, from a folder or made beside it."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.report.blocks import GAP_PX, block_grid, write_block_grids
from evalfarm.rows import Checkpoint, Picture
from evalfarm.suite import Blocks, Prompt, Sampling, Suite
from evalfarm.suite_files import load_suite

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 128, 0), (0, 0, 255), (128, 128, 128)
SIDE = 16


def suite_of(blocks: Blocks, *texts: str) -> Suite:
    """A suite of these prompts and of the fillers of its blocks."""
    fillers = [Prompt(text=text, filler=True) for text in blocks.filler_prompts]
    return Suite(
        name="grid",
        prompts=(*(Prompt(text=text) for text in texts), *fillers),
        sampling=Sampling(height=SIDE, width=SIDE),
        metrics=("clip_score",),
        blocks=blocks,
    )


def pictures_of(folder: Path, *colors: tuple[int, int, int] | None) -> list[Picture]:
    """A picture of one color for each prompt; None for one that could not be made."""
    found = []
    for number, color in enumerate(colors):
        file = f"{number}.png" if color else None
        if color:
            Image.new("RGB", (SIDE, SIDE), color).save(folder / f"{number}.png")
        status = "ok" if color else "failed"
        found.append(Picture(checkpoint="a", prompt=number, sample=0, status=status, file=file))
    return found


def cells(grid: Image.Image, block: int) -> list[object]:
    """The colors in the middle of the four places of a block of the first row."""
    left = block * (2 * SIDE + GAP_PX) + SIDE // 2
    middles = [(left + x, SIDE // 2 + y) for y in (0, SIDE) for x in (0, SIDE)]
    return [grid.getpixel(place) for place in middles]


def test_a_block_is_the_picture_and_three_that_the_same_weights_made(tmp_path: Path) -> None:
    suite = suite_of(Blocks(filler_prompts=("f", "g")), "a", "b")
    pictures = pictures_of(tmp_path, RED, None, GREEN, BLUE)
    grid = block_grid(suite, tmp_path, pictures)
    assert grid.size == (4 * SIDE + GAP_PX, 2 * SIDE)
    assert cells(grid, 0) == [RED, GREEN, BLUE, GREEN]
    assert cells(grid, 1) == [GREY, BLUE, GREEN, BLUE]  # what failed leaves its place


def test_fillers_from_a_folder_take_the_size_of_the_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    Image.new("RGB", (40, 20), BLUE).save(folder / "b.png")
    Image.new("RGB", (10, 30), GREEN).save(folder / "a.png")
    suite = suite_of(Blocks(filler_folder=folder), "a")
    grid = block_grid(suite, tmp_path, pictures_of(tmp_path, RED))
    assert grid.size == (2 * SIDE, 2 * SIDE)
    assert cells(grid, 0) == [RED, GREEN, BLUE, GREEN]


def test_each_whole_checkpoint_has_a_grid_and_a_suite_without_blocks_none(tmp_path: Path) -> None:
    blocks = Blocks(filler_prompts=("f",))
    for suite, grids in ((suite_of(blocks, "a"), ["step-2-b.png"]), (load_suite("mini"), [])):
        evaluation = Evaluation(suite, EvalConfig(), tmp_path / suite.name)
        for name, path in (("a", "exports/step-1"), ("b", "exports/step-2")):
            evaluation.ledger.add_checkpoint(
                Checkpoint(checkpoint=name, kind="weights", step=1, name=name, path=path)
            )
            for picture in pictures_of(evaluation.folder, RED, GREEN):
                evaluation.ledger.commit([replace(picture, checkpoint=name)])
        write_block_grids(evaluation, ["b"])
        found = sorted((evaluation.folder / "grids").glob("*"))
        assert [path.name for path in found] == grids
        for path in found:
            with Image.open(path) as grid:
                assert cells(grid, 0) == [RED, GREEN, GREEN, GREEN]
        evaluation.close()


def test_fillers_are_made_and_not_scored_and_come_after_what_is(tmp_path: Path) -> None:
    suite = load_suite("wikiart_grid")
    fillers = [prompt.filler for prompt in suite.prompts]
    assert fillers == sorted(fillers)
    assert len(suite.items()) == len(fillers)
    path = tmp_path / "mine.yaml"
    path.write_text("{name: a, metrics: [ocr], prompts: [a], blocks: {filler_folder: gone}}")
    with pytest.raises(ValueError, match=r"suite a: .*gone does not exist"):
        load_suite(str(path), tmp_path)
    path.write_text("{name: a, metrics: [ocr], prompts: [a], blocks: {}}")
    with pytest.raises(ValueError, match="filler_folder or filler_prompts: give one"):
        load_suite(str(path), tmp_path)
