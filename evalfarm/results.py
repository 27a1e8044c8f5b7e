"""What the ledger says, summed up: the numbers of each checkpoint, and what they rest on."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from evalfarm.evaluation import Evaluation
from evalfarm.ledger import Checkpoint, Score
from evalfarm.metrics.base import get
from evalfarm.work import metric_key


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """All results of a suite, as results.json holds them. A function of the ledger alone."""
    suite, ledger = evaluation.suite, evaluation.ledger
    references = _by_metric(
        ledger.scores(evaluation.references.checkpoint) if evaluation.references else []
    )
    return {
        "suite": suite.name,
        "digest": suite.digest,
        "columns": _columns(evaluation),
        "absent": evaluation.absent,
        "references": {metric: len(scores) for metric, scores in references.items()},
        "rows": [
            _row(evaluation, checkpoint, references) for checkpoint in ledger.checkpoints("weights")
        ],
    }


def verdict(results: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of each step's export that is scored whole, as verdict.json holds them.

    By metric: `values` by step, and `higher_is_better`. A trainer reads them.
    """
    rows = [row for row in results["rows"] if row["complete"] and row["step"] is not None]
    return {
        "suite": results["suite"],
        "metrics": {
            column["key"]: {
                "higher_is_better": column["higher_is_better"],
                "values": {
                    str(row["step"]): row["values"][column["key"]]
                    for row in rows
                    if column["key"] in row["values"]
                },
            }
            for column in results["columns"]
        },
    }


def _columns(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "key": column_key(name, column.name, variant),
            "title": column.title,
            "unit": column.unit,
            "higher_is_better": column.higher_is_better,
            "decimals": column.decimals,
        }
        for name, variant in evaluation.variants.items()
        for column in get(name).columns
    ]


def column_key(metric: str, column: str, variant: str) -> str:
    """A column as curves and results name it, such as `ocr_f1/ppocrv6-small@509be0a9`."""
    name = metric if metric.endswith(f"_{column}") else f"{metric}_{column}"
    return f"{name}/{variant}"


def _row(
    evaluation: Evaluation, checkpoint: Checkpoint, references: dict[str, list[Score]]
) -> dict[str, Any]:
    pictures = evaluation.ledger.pictures(checkpoint.checkpoint)
    scores = evaluation.ledger.scores(checkpoint.checkpoint)
    by_metric = _by_metric(scores)
    values: dict[str, float] = {}
    for name, variant in evaluation.variants.items():
        metric = metric_key(name, variant)
        if by_metric[metric]:
            numbers = get(name).summarize(by_metric[metric], references.get(metric, []))
            values |= {column_key(name, column, variant): v for column, v in numbers.items()}
    n_made = sum(picture.status == "ok" for picture in pictures)
    looked_at = len(scores) == n_made * len(evaluation.variants)
    n_expected = len(evaluation.suite.pairs())
    return {
        "name": checkpoint.name,
        "step": checkpoint.step,
        "checkpoint": checkpoint.checkpoint,
        "values": values,
        "complete": len(pictures) == n_expected and looked_at and evaluation.has_references,
        "n_expected": n_expected,
        "n_made": n_made,
        "n_scored": _fully_scored(scores, len(evaluation.variants)),
        "errors": sorted(
            {error for error in [*(p.error for p in pictures), *(s.error for s in scores)] if error}
        ),
    }


def _by_metric(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """The scores that are ok, by metric."""
    grouped: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        if score.status == "ok":
            grouped[score.metric].append(score)
    return grouped


def _fully_scored(scores: Sequence[Score], metrics: int) -> int:
    """How many pictures every metric has scored."""
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for score in scores:
        counts[score.prompt, score.sample] += score.status == "ok"
    return sum(count == metrics for count in counts.values())
