"""Does OCR know when it is right? Precision and recall of the read words over its confidence.

At a threshold the words of lines with at least that confidence count. Of a picture's words as many
are right as it was asked for, the most confident first; the others are wrong. Precision is right /
(right + wrong), 1 where none is left; recall is right / asked-for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0, 1, 101)


@dataclass(frozen=True, kw_only=True)
class ConfidenceCurve:
    """Counts of words, and what follows from them, at each of THRESHOLDS."""

    right: NDArray[np.int64]
    wrong: NDArray[np.int64]
    missed: NDArray[np.int64]
    """Asked-for words that were not read with so much confidence."""

    @property
    def precision(self) -> NDArray[np.float64]:
        """0 to 1."""
        read = self.right + self.wrong
        return np.where(read > 0, self.right / np.maximum(read, 1), 1.0)

    @property
    def recall(self) -> NDArray[np.float64]:
        """0 to 1."""
        recall: NDArray[np.float64] = self.right / np.maximum(self.right + self.missed, 1)
        return recall


def judged_words(
    lines: Iterable[Mapping[str, Any]], asked: Sequence[str]
) -> list[tuple[float, bool]]:
    """Confidence of each word that was read in a picture, and whether it is right.

    `lines` as the ledger holds them: `text` and `confidence`. `asked` in lower case.
    """
    read = [
        (float(line["confidence"]), word)
        for line in lines
        for word in str(line["text"]).strip().lower().split()
    ]
    left = Counter(asked)
    judged = []
    for confidence, word in sorted(read, key=lambda pair: -pair[0]):
        judged.append((confidence, left[word] > 0))
        left[word] -= 1
    return judged


def confidence_curve(judged: Sequence[tuple[float, bool]], n_asked: int) -> ConfidenceCurve:
    """The curve of all words of all pictures; `n_asked` words should have been read."""
    counts = []
    for wanted in (True, False):
        confidences = np.sort([confidence for confidence, right in judged if right is wanted])
        counts.append(len(confidences) - np.searchsorted(confidences, THRESHOLDS, side="left"))
    right, wrong = counts
    return ConfidenceCurve(right=right, wrong=wrong, missed=n_asked - right)
