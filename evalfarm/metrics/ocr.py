"""Can the words be read? Of what OCR reads in a picture, against what its prompt asked for.

Both in lower case, split into words at blanks. By picture, as MARIO-Eval defines it (TextDiffuser,
Chen et al. 2023, eval/ocr_eval.py), words as multisets; the summary is the mean over pictures:

    precision = |read ∩ asked| / |read|      recall = |read ∩ asked| / |asked|       0 to 1
    accuracy  = 1 if all words, sorted and joined, are equal, else 0
    NED       = 1 - Levenshtein(read, asked) / length of the longer, the words joined by blanks

and F1 = 2PR / (P + R) of the mean P and the mean R. Micro precision, recall and F1 are those of the
words of all pictures counted together, so a picture weighs by its words. Higher is better for all.

A prompt without quoted words has precision and recall 0, and accuracy 1 if nothing is read, as
there. It has no sentence, so these two leave it out; `words_asked` of its row is 0:

    sentence accuracy = share of pictures whose words are those asked for, in order: AnyText's (Tuo
                        et al. 2023) but for the case, and of the picture, not of a given place in
                        it. Higher is better
    CER               = sum of Levenshtein(read, asked) / sum of the characters asked for, the words
                        joined by blanks. 0 and up, over 1 where more is read; lower is better
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from evalfarm.metrics.base import Batch, Column, Metric, Seen, register
from evalfarm.metrics.reading import (
    accuracy,
    character_errors,
    f1,
    normalized_edit_similarity,
    precision_recall,
    words_in_common,
    words_of,
)
from evalfarm.rows import Rows
from trainer.models.ocr import Line, OcrReader, missing_ocr, ocr_name

SENTENCES = "words_asked"
"""What a picture must have to count as a sentence."""


def _share(name: str, title: str, *, mean: bool = False, headline: bool = True) -> Column:
    return Column(
        name=name,
        title=title,
        unit="share",
        higher_is_better=True,
        mean_of=name if mean else None,
        headline=headline,
    )


@register("ocr")
class Ocr(Metric):
    """Reads each picture with PP-OCR and compares the words with those of the prompt."""

    modes = ("ppocrv6-small",)
    columns = (
        _share("precision", "OCR P", mean=True),
        _share("recall", "OCR R", mean=True),
        _share("f1", "OCR F1"),
        _share("accuracy", "OCR acc", mean=True),
        _share("ned", "NED", mean=True),
        _share("micro_precision", "OCR micro P", headline=False),
        _share("micro_recall", "OCR micro R", headline=False),
        _share("micro_f1", "OCR micro F1", headline=False),
        replace(_share("sentence_accuracy", "Sentence acc", headline=False), only_with=SENTENCES),
        Column(
            name="cer",
            title="CER",
            unit="share",
            higher_is_better=False,
            only_with=SENTENCES,
            headline=False,
        ),
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
        """Means over the pictures, and what is made of their counts."""
        means = self.means(rows)
        return {
            **means,
            "f1": f1(means["precision"], means["recall"]),
            **_micro(rows),
            **_of_sentences(rows),
        }


def _compare(lines: Sequence[Line], asked: Sequence[str]) -> Seen:
    read = words_of(lines)
    read_text, asked_text = " ".join(read), " ".join(asked)
    right = words_in_common(read, asked)
    precision, recall = precision_recall(right, len(read), len(asked))
    return Seen(
        numbers={
            "precision": precision,
            "recall": recall,
            "accuracy": accuracy(read, asked),
            "ned": normalized_edit_similarity(read_text, asked_text),
            "words_right": float(right),
            "words_read": float(len(read)),
            "words_asked": float(len(asked)),
            "sentence_right": float(read_text == asked_text),
            "character_errors": float(character_errors(read_text, asked_text)),
            "characters_asked": float(len(asked_text)),
        },
        detail={"read": read_text, "lines": [asdict(line) for line in lines]},
    )


def _micro(rows: Rows) -> dict[str, float]:
    counts = (float(rows.numbers[f"words_{which}"].sum()) for which in ("right", "read", "asked"))
    precision, recall = precision_recall(*counts)
    return {
        "micro_precision": precision,
        "micro_recall": recall,
        "micro_f1": f1(precision, recall),
    }


def _of_sentences(rows: Rows) -> dict[str, float]:
    """Nothing where no prompt asks for a word."""
    numbers = rows.take(rows.numbers[SENTENCES] > 0).numbers
    if not numbers[SENTENCES].size:
        return {}
    return {
        "sentence_accuracy": float(np.mean(numbers["sentence_right"])),
        "cer": float(numbers["character_errors"].sum() / numbers["characters_asked"].sum()),
    }
