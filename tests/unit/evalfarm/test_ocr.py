"""OCR metrics against cases worked out by hand from MARIO-Eval's definition."""

from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw, ImageFont

from evalfarm.config import NetworksConfig
from evalfarm.ledger import NO_ROWS
from evalfarm.metrics.base import Asked, Batch
from evalfarm.metrics.ocr import (
    Ocr,
    accuracy,
    normalized_edit_similarity,
    precision_recall,
    words_of,
)
from evalfarm.networks import Networks
from evalfarm.suite import quoted_words
from tests.unit.evalfarm.conftest import rows_of
from trainer.models.ocr import Line

OCR = Ocr("ppocrv6-small", NetworksConfig())


def line(text: str) -> Line:
    return Line(text=text, confidence=1.0, polygon=[[0, 0]] * 4)


@pytest.mark.parametrize(
    ("read", "asked", "precision", "recall", "right"),
    [
        (["hello", "world"], ["hello", "world"], 1, 1, 1),
        (["world", "hello"], ["hello", "world"], 1, 1, 1),  # the order does not count
        (["hello"], ["hello", "world"], 1, 0.5, 0),
        (["hello", "there", "world"], ["hello", "world"], 2 / 3, 1, 0),
        (["a", "a", "b"], ["a", "b", "b"], 2 / 3, 2 / 3, 0),  # multisets, not sets
        ([], ["hello"], 0, 0, 0),
        (["hello"], [], 0, 0, 0),
        ([], [], 0, 0, 1),  # as MARIO-Eval has it
        (["helloworld"], ["hello", "world"], 0, 0, 1),  # accuracy forgets where words end
        (["he", "llo"], ["hel", "lo"], 0, 0, 1),
    ],
)
def test_precision_recall_and_accuracy_of_one_picture(
    read: list[str], asked: list[str], precision: float, recall: float, right: float
) -> None:
    assert precision_recall(read, asked) == pytest.approx((precision, recall), abs=1e-7)
    assert accuracy(read, asked) == right


@pytest.mark.parametrize(
    ("read", "asked", "similarity"),
    [("kitten", "sitting", 1 - 3 / 7), ("", "abcd", 0), ("", "", 1), ("flaw", "lawn", 1 - 2 / 4)],
)
def test_the_edit_similarity_of_known_pairs(read: str, asked: str, similarity: float) -> None:
    assert normalized_edit_similarity(read, asked) == pytest.approx(similarity)


def test_words_are_split_at_blanks_and_lower_cased() -> None:
    assert words_of([line(" Hello  WORLD "), line("42%")]) == ["hello", "world", "42%"]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("A sign that says 'Keep OUT'", ["keep", "out"]),
        ("'one' and 'two'", ["one", "two"]),
        ("no text at all", []),
        ("''", []),
    ],
)
def test_the_words_asked_for_stand_in_single_quotes(prompt: str, words: list[str]) -> None:
    assert quoted_words(prompt) == words


def test_f1_is_that_of_the_mean_precision_and_recall() -> None:
    # MARIO's table: F of the averages, not the average of F.
    numbers = [
        {"precision": 1.0, "recall": 0.0, "accuracy": 0.0, "ned": 0.5},
        {"precision": 0.0, "recall": 1.0, "accuracy": 1.0, "ned": 0.7},
    ]
    summary = OCR.summarize(rows_of(numbers), NO_ROWS)
    assert summary == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.5, "ned": 0.6}
    )


def test_the_published_f1_follows_from_the_published_means() -> None:
    # TextDiffuser's table, OCR by MaskTextSpotter v3: P .7795, R .7498, F .7643.
    row = {"precision": 0.7795, "recall": 0.7498, "accuracy": 0.5712, "ned": 0.0}
    assert OCR.summarize(rows_of([row]), NO_ROWS)["f1"] == pytest.approx(0.7643, abs=1e-4)


@pytest.fixture(scope="module")
def draw() -> Callable[[str], Image.Image]:
    def draw_text(text: str) -> Image.Image:
        image = Image.new("RGB", (512, 512), "white")
        font = ImageFont.load_default(64)
        ImageDraw.Draw(image).text((40, 200), text, font=font, fill="black")
        return image

    return draw_text


def test_real_ocr_reads_real_pictures(draw: Callable[[str], Image.Image]) -> None:
    words = ("hello", "world")
    batch = [
        Asked(image=draw("Hello World"), words=words),
        Asked(image=draw("Hello Word"), words=words),
        Asked(image=Image.new("RGB", (512, 512), "white"), words=("hello",)),
    ]
    right, wrong, blank = OCR.look(Batch(batch, Networks(NetworksConfig())))
    assert right.numbers == pytest.approx(
        {"precision": 1, "recall": 1, "accuracy": 1, "ned": 1}, abs=1e-7
    )
    assert wrong.detail["read"] == "hello word"
    assert wrong.numbers["precision"] == pytest.approx(0.5)
    assert wrong.numbers["ned"] == pytest.approx(1 - 1 / 11)
    assert blank.detail == {"read": "", "lines": []}
    assert blank.numbers == {"precision": 0, "recall": 0, "accuracy": 0, "ned": 0}
