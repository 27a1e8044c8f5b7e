"""python -m benchmarks.words_picture: what models drew of the same words, and what OCR reads.

Given folders that `evalfarm score` wrote, each with one suite and one model, it draws a row for
each model; given one folder, all its words, eight to a row. Below a picture stands the word that
was asked for, green where OCR reads just that. Only the first picture of each prompt is shown.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from trainer.data.words import font_of

PAPER, GREEN, GREY = "#faf8f3", "#2b6e2b", "#555555"
COLUMNS = 8
PICTURE_PX = (144, 48)
CELL_PX = (156, 84)
LABEL_PX = 130
TEXT_PX = 15
Row = Mapping[str, str]


def main() -> None:
    """Draw what the folders hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="+", help="what `evalfarm score --out` was told")
    parser.add_argument("--out", type=Path, required=True, help="a .png")
    arguments = parser.parse_args()
    scored = {folder.name: first_pictures(folder) for folder in arguments.folder}
    image = picture_of(scored) if len(scored) > 1 else one_model(next(iter(scored.values())))
    image.save(arguments.out, optimize=True)
    print(f"wrote {arguments.out}")


def first_pictures(folder: Path) -> list[Row]:
    """The rows of pictures.csv that show a prompt for the first time, files from the root."""
    (table,) = folder.glob("*/pictures.csv")
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sample"] == "0"]
    return [{**row, "file": str(table.parent / row["file"])} for row in rows]


def one_model(rows: Sequence[Row]) -> Image.Image:
    """All words of a model, eight to a row."""
    lines = [rows[first : first + COLUMNS] for first in range(0, len(rows), COLUMNS)]
    return _drawn([("", line) for line in lines], label_px=0)


def picture_of(scored: Mapping[str, Sequence[Row]]) -> Image.Image:
    """A row for each model, of eight words spread evenly over the suite."""
    words = min(map(len, scored.values()))
    shown = [words * number // COLUMNS for number in range(COLUMNS)]
    lines = [(name, [rows[index] for index in shown]) for name, rows in scored.items()]
    return _drawn(lines, label_px=LABEL_PX)


def _drawn(lines: Sequence[tuple[str, Sequence[Row]]], label_px: int) -> Image.Image:
    width, height = CELL_PX
    margin = width - PICTURE_PX[0]
    sheet = Image.new(
        "RGB", (label_px + COLUMNS * width + margin, len(lines) * height + margin), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    font = font_of("sans", TEXT_PX)
    for name, row, (left, top) in _cells(lines, label_px):
        if name:
            place = (margin, top + margin + PICTURE_PX[1] / 2)
            draw.text(place, name, fill="black", font=font, anchor="lm")
        with Image.open(row["file"]) as picture:
            sheet.paste(picture.resize(PICTURE_PX), (left + margin, top + margin))
        place = (left + margin + PICTURE_PX[0] / 2, top + margin + PICTURE_PX[1] + 13)
        draw.text(place, row["words"], fill=_colour(row), font=font, anchor="mm")
    return sheet


def _cells(
    lines: Sequence[tuple[str, Sequence[Row]]], label_px: int
) -> Iterator[tuple[str, Row, tuple[int, int]]]:
    """Each picture's row and corner; the line's name with the first of a line."""
    width, height = CELL_PX
    for number, (name, rows) in enumerate(lines):
        for column, row in enumerate(rows):
            yield name if column == 0 else "", row, (label_px + column * width, number * height)


def _colour(row: Row) -> str:
    (accuracy,) = [value for key, value in row.items() if key.endswith(" accuracy")]
    return GREEN if float(accuracy) == 1 else GREY


if __name__ == "__main__":
    main()
