"""What the ledger says, summed up: the numbers of each checkpoint, and what they rest on."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from evalfarm.evaluation import Evaluation
from evalfarm.ledger import NO_ROWS, Checkpoint, Rows
from evalfarm.metrics.base import column_key


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """All results of a suite, as results.json holds them. A function of the ledger alone."""
    suite, ledger = evaluation.suite, evaluation.ledger
    references = _reference_rows(evaluation)
    return {
        "suite": suite.name,
        "digest": suite.digest,
        "columns": _columns(evaluation),
        "absent": evaluation.absent,
        "references": {spec: len(rows) for spec, rows in references.items()},
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


def _reference_rows(evaluation: Evaluation) -> dict[str, Rows]:
    """By metric, what it says of the real pictures."""
    if evaluation.references is None:
        return {}
    checkpoint = evaluation.references.checkpoint
    return {
        spec: evaluation.ledger.rows(checkpoint, evaluation.rows[spec])
        for spec, metric in evaluation.metrics.items()
        if metric.references == "set"
    }


def _columns(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "key": column_key(metric, column),
            "title": column.title,
            "unit": column.unit,
            "higher_is_better": column.higher_is_better,
            "decimals": column.decimals,
        }
        for metric in evaluation.metrics.values()
        for column in metric.columns
    ]


def _row(
    evaluation: Evaluation, checkpoint: Checkpoint, references: Mapping[str, Rows]
) -> dict[str, Any]:
    pictures = evaluation.ledger.pictures(checkpoint.checkpoint)
    values: dict[str, float] = {}
    for spec, metric in evaluation.metrics.items():
        rows = evaluation.ledger.rows(checkpoint.checkpoint, evaluation.rows[spec])
        if metric.references == "set":
            rows = rows.take(evaluation.suite.has_real[rows.prompts])
        if len(rows):
            numbers = metric.summarize(rows, references.get(spec, NO_ROWS))
            values |= {
                column_key(metric, column): numbers[column.name]
                for column in metric.columns
                if column.name in numbers
            }
    return {
        "name": checkpoint.name,
        "step": checkpoint.step,
        "checkpoint": checkpoint.checkpoint,
        "values": values,
        **_counts(evaluation, checkpoint),
        "errors": sorted(
            {p.error for p in pictures if p.error} | _score_errors(evaluation, checkpoint)
        ),
    }


def _counts(evaluation: Evaluation, checkpoint: Checkpoint) -> dict[str, Any]:
    """How many pictures are expected, made and scored by every metric, and whether that is all."""
    prompts = evaluation.suite.prompts
    pictures = evaluation.ledger.pictures(checkpoint.checkpoint)
    metrics = set(evaluation.rows.values())
    looked_at, scored = 0, Counter[tuple[int, int]]()
    for prompt, sample, metric, status in evaluation.ledger.scored(checkpoint.checkpoint):
        if metric in metrics:
            looked_at += 1
            scored[prompt, sample] += status == "ok"
    n_made = sum(p.status == "ok" for p in pictures if not prompts[p.prompt].filler)
    items = evaluation.suite.items()
    all_looked_at = looked_at == n_made * len(metrics)
    return {
        "complete": len(pictures) == len(items) and all_looked_at and evaluation.has_references,
        "n_expected": sum(not prompts[item.prompt].filler for item in items),
        "n_made": n_made,
        "n_scored": sum(count == len(metrics) for count in scored.values()),
    }


def _score_errors(evaluation: Evaluation, checkpoint: Checkpoint) -> set[str]:
    return {score.error for score in evaluation.ledger.scores(checkpoint.checkpoint) if score.error}
