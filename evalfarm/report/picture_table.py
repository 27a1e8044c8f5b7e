"""pictures.csv: every picture of every checkpoint with its numbers, for whoever wants to dig."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalfarm.evaluation import Evaluation
from evalfarm.rows import Picture, Score

Looks = Mapping[tuple[int, int], Sequence[Score]]


def picture_table(evaluation: Evaluation) -> str:
    """Every picture of every checkpoint with its numbers, as CSV."""
    rows: list[dict[str, Any]] = []
    for checkpoint in evaluation.ledger.checkpoints("weights"):
        looks = looks_by_picture(evaluation.ledger.looks(checkpoint.checkpoint))
        for picture in evaluation.ledger.pictures(checkpoint.checkpoint):
            rows.append(_row(evaluation, checkpoint.name, picture, looks))
    # The columns of all rows: a picture that failed has fewer.
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def looks_by_picture(looks: Iterable[Score]) -> dict[tuple[int, int], list[Score]]:
    """What was said of each picture, by prompt and sample."""
    found: dict[tuple[int, int], list[Score]] = {}
    for look in looks:
        found.setdefault((look.prompt, look.sample), []).append(look)
    return found


def _row(evaluation: Evaluation, name: str, picture: Picture, looks: Looks) -> dict[str, Any]:
    prompt = evaluation.suite.prompts[picture.prompt]
    found = looks.get((picture.prompt, picture.sample), [])
    row: dict[str, Any] = {
        "checkpoint": name,
        "prompt_number": picture.prompt,
        "sample": picture.sample,
        "group": prompt.group,
        "prompt": prompt.text,
        "words": " ".join(prompt.words),
        "file": picture.file,
        "status": picture.status,
        "note": picture.note,
        "error": picture.error or "; ".join(look.error for look in found if look.error),
    }
    for look in found:
        row |= {f"{look.metric} {column}": value for column, value in look.numbers.items()}
        if "read" in look.detail:
            row[f"{look.metric} read"] = look.detail["read"]
    return row
