"""What the ledger says, summed up: the numbers of each checkpoint, and what they rest on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cluster.run_folder import read_json
from evalfarm.evaluation import Evaluation
from evalfarm.metrics.base import Metric, column_key
from evalfarm.results.summary import PARTS, Summaries
from evalfarm.rows import NO_ROWS, Checkpoint, Picture, Rows

ScoredBy = tuple[int, int, str, str]
"""Prompt, sample, metric and status."""


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """All results of a suite, as results.json holds them. A function of the ledger alone.

    The results.json that is there only spares work.
    """
    suite = evaluation.suite
    references = _reference_rows(evaluation)
    path = evaluation.folder / "results.json"
    summaries = Summaries(read_json(path) if path.is_file() else None)
    return {
        "suite": suite.name,
        "digest": suite.digest,
        "columns": _columns(evaluation),
        "absent": evaluation.absent,
        "references": {spec: len(rows) for spec, rows in references.items()},
        "prompts_without_real": np.flatnonzero(~suite.has_real).tolist(),
        "filler_prompts": [n for n, prompt in enumerate(suite.prompts) if prompt.filler],
        "references_checkpoint": evaluation.references and evaluation.references.checkpoint,
        "rows": [
            _row(evaluation, checkpoint, references, summaries)
            for checkpoint in evaluation.ledger.checkpoints("weights")
        ],
    }


def _reference_rows(evaluation: Evaluation) -> dict[str, Rows]:
    """By metric, what it says of the real pictures."""
    if evaluation.references is None:
        return {}
    checkpoint = evaluation.references.checkpoint
    return {
        spec: evaluation.ledger.rows(checkpoint, metric.rows)
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
            "headline": column.headline,
            "spread": column.spread,
            # Where its rows are in the ledger, for whoever reads that without the networks.
            "metric": spec,
            "rows": metric.rows,
            "column": column.name,
        }
        for spec, metric in evaluation.metrics.items()
        for column in metric.columns
    ]


def _row(
    evaluation: Evaluation,
    checkpoint: Checkpoint,
    references: Mapping[str, Rows],
    summaries: Summaries,
) -> dict[str, Any]:
    # Counted first: the driver commits meanwhile, and what is called complete must have all values.
    pictures = evaluation.ledger.pictures(checkpoint.checkpoint)
    scored = list(evaluation.ledger.scored(checkpoint.checkpoint))
    whole = _scored_by_all(evaluation, scored)
    rests_on: dict[str, str] = {}
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    groups: dict[str, dict[str, float]] = {}
    for spec, metric in evaluation.metrics.items():
        rows = evaluation.ledger.rows(checkpoint.checkpoint, metric.rows)
        if metric.references == "set":
            rows = rows.take(evaluation.suite.has_real[rows.prompts])
        summary = summaries.of(metric, rows, references.get(spec, NO_ROWS))
        rests_on[spec] = summary.rests_on
        for part in PARTS:
            parts[part] |= getattr(summary, part)
        for group, values in _group_means(evaluation, metric, rows).items():
            groups.setdefault(group, {}).update(values)
    return {
        "name": checkpoint.name,
        "step": checkpoint.step,
        "checkpoint": checkpoint.checkpoint,
        **parts,
        "rests_on": rests_on,
        **_counts(evaluation, pictures, scored),
        "n_scored": len(whole),
        "groups": _groups(evaluation, whole, groups),
        "notes": dict(sorted(Counter(p.note for p in pictures if p.note).items())),
        "errors": evaluation.ledger.errors(checkpoint.checkpoint),
    }


def _group_means(evaluation: Evaluation, metric: Metric, rows: Rows) -> dict[str, dict[str, float]]:
    """By group of prompts, the columns that are means."""
    groups = np.array([prompt.group for prompt in evaluation.suite.prompts])[rows.prompts]
    return {
        group: {
            column_key(metric, column): float(
                np.mean(rows.numbers[column.mean_of][groups == group])
            )
            for column in metric.columns
            if column.mean_of
        }
        for group in dict.fromkeys(groups.tolist())
        if group
    }


def _groups(
    evaluation: Evaluation,
    whole: Iterable[tuple[int, int]],
    values: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """The groups' means, with the pictures that they rest on."""
    suite = evaluation.suite
    expected = Counter(
        suite.prompts[item.prompt].group
        for item in suite.items()
        if not suite.prompts[item.prompt].filler
    )
    scored = Counter(suite.prompts[prompt].group for prompt, _ in whole)
    return {
        group: {"n_expected": n, "n_scored": scored[group], "values": values.get(group, {})}
        for group, n in expected.items()
        if group
    }


def _counts(
    evaluation: Evaluation, pictures: Sequence[Picture], scored: Sequence[ScoredBy]
) -> dict[str, Any]:
    """How many pictures are expected and made, and whether every metric has looked at all."""
    prompts = evaluation.suite.prompts
    metrics = {metric.rows for metric in evaluation.metrics.values()}
    n_looks = sum(metric in metrics for _, _, metric, _ in scored)
    n_made = sum(p.status == "ok" for p in pictures if not prompts[p.prompt].filler)
    items = evaluation.suite.items()
    all_looked_at = n_looks == n_made * len(metrics)
    return {
        "complete": len(pictures) == len(items) and all_looked_at and evaluation.has_references,
        "n_expected": sum(not prompts[item.prompt].filler for item in items),
        "n_made": n_made,
    }


def _scored_by_all(evaluation: Evaluation, scored: Iterable[ScoredBy]) -> set[tuple[int, int]]:
    """Prompt and sample of the pictures that every metric could score."""
    metrics = {metric.rows for metric in evaluation.metrics.values()}
    found = Counter(
        (prompt, sample)
        for prompt, sample, metric, status in scored
        if metric in metrics and status == "ok"
    )
    return {picture for picture, count in found.items() if count == len(metrics)}
