"""Can the words be read? MARIO-Eval's precision, recall, F1 and accuracy, and edit distance.

Per picture, with the read and the asked-for words lower-cased and as multisets (TextDiffuser, Chen
et al. 2023, eval/ocr_eval.py):

    precision = |read ∩ asked| / |read|      recall = |read ∩ asked| / |asked|       0 to 1
    accuracy  = 1 if all words, sorted and joined, are equal, else 0
    NED       = 1 - Levenshtein(read, asked) / length of the longer, the words joined by blanks

A summary is the mean over pictures of each, and F1 = 2PR / (P + R) of the mean P and the mean R.
Higher is better for all. Nothing read and nothing asked is precision and recall 0, accuracy 1,
as there.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from torchmetrics.functional.text import edit_distance

from evalfarm.ledger import Rows
from evalfarm.metrics.base import Batch, Column, Metric, Seen, register
from trainer.models.ocr import Line, OcrReader, missing_ocr, ocr_name

EPSILON = 1e-8  # MARIO-Eval's, in every denominator


@register("ocr")
class Ocr(Metric):
    """Reads each picture with PP-OCR and compares the words with those of the prompt."""

    modes = ("ppocrv6-small",)
    columns = (
        Column(
            name="precision",
            title="OCR P",
            unit="share",
            higher_is_better=True,
            mean_of="precision",
        ),
        Column(name="recall", title="OCR R", unit="share", higher_is_better=True, mean_of="recall"),
        Column(name="f1", title="OCR F1", unit="share", higher_is_better=True),
        Column(
            name="accuracy",
            title="OCR acc",
            unit="share",
            higher_is_better=True,
            mean_of="accuracy",
        ),
        Column(name="ned", title="NED", unit="share", higher_is_better=True, mean_of="ned"),
    )

    def absent(self) -> str | None:
        """Absent only where PaddleOCR or its weights are not installed."""
        return missing_ocr()

    @property
    def variant(self) -> str:
        """The recogniser's name and digest."""
        return ocr_name()

    def look(self, batch: Batch) -> list[Seen]:
        """Read the pictures; the lines stay in the ledger, so that rules can be applied anew."""
        reader = batch.networks.keep("ocr", OcrReader)
        read = reader.read(batch.images)
        return [_compare(lines, one.words) for lines, one in zip(read, batch, strict=True)]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """Means over the pictures, and F1 of the means."""
        means = self.means(rows)
        precision, recall = means["precision"], means["recall"]
        return {**means, "f1": 2 * precision * recall / (precision + recall + EPSILON)}


def precision_recall(read: Sequence[str], asked: Sequence[str]) -> tuple[float, float]:
    """Precision and recall of one picture's words, as multisets."""
    common = (Counter(read) & Counter(asked)).total()
    return common / (len(read) + EPSILON), common / (len(asked) + EPSILON)


def accuracy(read: Sequence[str], asked: Sequence[str]) -> float:
    """1 if the words are the same in any order and split, else 0."""
    return float("".join(sorted(read)) == "".join(sorted(asked)))


def normalized_edit_similarity(read: str, asked: str) -> float:
    """1 - Levenshtein / length of the longer; 1 for two empty texts."""
    longer = max(len(read), len(asked))
    if longer == 0:
        return 1.0
    return 1 - float(edit_distance([read], [asked])) / longer


def words_of(lines: Sequence[Line]) -> list[str]:
    """The words that were read, in lower case."""
    return [word for line in lines for word in line.text.strip().lower().split()]


def _compare(lines: Sequence[Line], asked: Sequence[str]) -> Seen:
    read = words_of(lines)
    precision, recall = precision_recall(read, asked)
    return Seen(
        numbers={
            "precision": precision,
            "recall": recall,
            "accuracy": accuracy(read, asked),
            "ned": normalized_edit_similarity(" ".join(read), " ".join(asked)),
        },
        detail={"read": " ".join(read), "lines": [asdict(line) for line in lines]},
    )
