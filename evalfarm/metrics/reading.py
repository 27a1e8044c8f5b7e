"""What was read against what was asked for: words as multisets, and characters."""

from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from trainer.models.ocr import Line

EPSILON = 1e-8  # MARIO-Eval's, in every denominator


def words_of(lines: Sequence[Line]) -> list[str]:
    """The words that were read, in lower case."""
    return [word for line in lines for word in line.text.strip().lower().split()]


def words_in_common(read: Sequence[str], asked: Sequence[str]) -> int:
    """How many words are right, as multisets."""
    return (Counter(read) & Counter(asked)).total()


def precision_recall(right: float, read: float, asked: float) -> tuple[float, float]:
    """Precision and recall from counts of words; 0 where there are none."""
    return right / (read + EPSILON), right / (asked + EPSILON)


def f1(precision: float, recall: float) -> float:
    """The harmonic mean."""
    return 2 * precision * recall / (precision + recall + EPSILON)


def accuracy(read: Sequence[str], asked: Sequence[str]) -> float:
    """1 if the words are the same in any order and split, else 0."""
    return float("".join(sorted(read)) == "".join(sorted(asked)))


def normalized_edit_similarity(read: str, asked: str) -> float:
    """1 - Levenshtein / length of the longer; 1 for two empty texts."""
    return float(Levenshtein.normalized_similarity(read, asked))


def character_errors(read: str, asked: str) -> int:
    """The fewest characters to insert, delete or replace: the Levenshtein distance."""
    return int(Levenshtein.distance(read, asked))
