"""Words and characters against cases worked out by hand from MARIO-Eval's definition."""

import pytest

from evalfarm.metrics.reading import (
    accuracy,
    character_errors,
    normalized_edit_similarity,
    precision_recall,
    words_in_common,
    words_of,
)
from trainer.models.ocr import Line


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
    right_words = words_in_common(read, asked)
    found = precision_recall(right_words, len(read), len(asked))
    assert found == pytest.approx((precision, recall), abs=1e-7)
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
    ("read", "asked", "errors"),
    [("kitten", "sitting", 3), ("", "abcd", 4), ("abcd", "", 4), ("same", "same", 0)],
)
def test_the_character_errors_of_known_pairs(read: str, asked: str, errors: int) -> None:
    assert character_errors(read, asked) == errors
