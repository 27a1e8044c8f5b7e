"""What people look at: report.html, one file that needs no server, and a table of every picture."""

import base64
import csv
import io
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from cluster.run_folder import write_json, write_text
from evalfarm.evaluation import Evaluation
from evalfarm.ledger import Picture, Score
from evalfarm.results import summarize
from evalfarm.verdict import verdict

SHOWN_PROMPTS = 64
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 260, 90, 6


def write_reports(evaluation: Evaluation) -> dict[str, Any]:
    """Write results.json, pictures.csv and report.html from the ledger; the results."""
    results = summarize(evaluation)
    write_json(evaluation.folder / "results.json", results)
    write_json(evaluation.folder / "verdict.json", verdict(evaluation, results))
    write_text(evaluation.folder / "pictures.csv", picture_table(evaluation))
    write_text(evaluation.folder / "report.html", report_page(evaluation, results))
    return results


def picture_table(evaluation: Evaluation) -> str:
    """Every picture of every checkpoint with its numbers, as CSV."""
    rows: list[dict[str, Any]] = []
    for checkpoint in evaluation.ledger.checkpoints("weights"):
        scores = _scores_by_picture(evaluation.ledger.scores(checkpoint.checkpoint))
        for picture in evaluation.ledger.pictures(checkpoint.checkpoint):
            rows.append(_picture_row(evaluation, checkpoint.name, picture, scores))
    # The columns of all rows: a picture that failed has fewer.
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def report_page(evaluation: Evaluation, results: dict[str, Any]) -> str:
    """The page: table, curves, and the same prompts over the steps with what was read in them."""
    template = files("evalfarm").joinpath("report.html.j2").read_text()
    environment = Environment(autoescape=True)
    page: str = environment.from_string(template).render(
        results=results,
        suite=evaluation.suite,
        best=_best(results),
        charts=[_chart(column, results["rows"]) for column in results["columns"]],
        grid=_grid(evaluation, results["rows"]),
        shown=min(SHOWN_PROMPTS, len(evaluation.suite.prompts)),
    )
    return page


def _best(results: dict[str, Any]) -> dict[str, float]:
    """The best value of each column, where there are several to choose from."""
    best: dict[str, float] = {}
    for column in results["columns"]:
        key = column["key"]
        values = [row["values"][key] for row in results["rows"] if key in row["values"]]
        if len(values) > 1:
            best[key] = max(values) if column["higher_is_better"] else min(values)
    return best


def _picture_row(
    evaluation: Evaluation,
    name: str,
    picture: Picture,
    scores: dict[tuple[int, int], list[Score]],
) -> dict[str, Any]:
    prompt = evaluation.suite.prompts[picture.prompt]
    found = scores.get((picture.prompt, picture.sample), [])
    row: dict[str, Any] = {
        "checkpoint": name,
        "prompt_number": picture.prompt,
        "sample": picture.sample,
        "prompt": prompt.text,
        "words": " ".join(prompt.words),
        "file": picture.file,
        "status": picture.status,
        "error": picture.error or "; ".join(score.error for score in found if score.error),
    }
    for score in found:
        row |= {f"{score.metric} {column}": value for column, value in score.numbers.items()}
        if "read" in score.detail:
            row[f"{score.metric} read"] = score.detail["read"]
    return row


def _grid(evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per prompt: its text and, for each checkpoint, its first picture."""
    cells = [_cells(evaluation, row["checkpoint"]) for row in rows]
    return [
        {"prompt": prompt.text, "cells": [column.get(number) for column in cells]}
        for number, prompt in enumerate(evaluation.suite.prompts[:SHOWN_PROMPTS])
    ]


def _cells(evaluation: Evaluation, checkpoint: str) -> dict[int, dict[str, Any]]:
    scores = _scores_by_picture(evaluation.ledger.scores(checkpoint))
    return {
        picture.prompt: _cell(evaluation, picture, scores.get((picture.prompt, 0), []))
        for picture in evaluation.ledger.pictures(checkpoint)
        if picture.sample == 0 and picture.prompt < SHOWN_PROMPTS
    }


def _cell(evaluation: Evaluation, picture: Picture, scores: Sequence[Score]) -> dict[str, Any]:
    cell: dict[str, Any] = {"error": picture.error, "image": None, "read": None, "right": False}
    if picture.file and (evaluation.folder / picture.file).is_file():
        data = (evaluation.folder / picture.file).read_bytes()
        cell["image"] = base64.b64encode(data).decode()
    for score in scores:
        cell["error"] = cell["error"] or score.error
        if "read" in score.detail:
            cell["read"] = score.detail["read"]
            cell["right"] = score.numbers["accuracy"] == 1
    return cell


def _chart(column: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A curve over the steps as points of an SVG, with its range."""
    known = [
        (row["step"], row["values"][column["key"]])
        for row in rows
        if row["step"] is not None and column["key"] in row["values"]
    ]
    if not known:
        return {**column, "points": []}
    steps, values = zip(*known, strict=True)
    return {
        **column,
        "low": min(values),
        "high": max(values),
        "points": [
            (
                _scaled(step, steps, CHART_WIDTH),
                CHART_HEIGHT - _scaled(value, values, CHART_HEIGHT),
            )
            for step, value in known
        ],
        "last_step": steps[-1],
    }


def _scaled(value: float, values: Sequence[float], length: int) -> float:
    """Where a value stands between the least and the greatest, in pixels."""
    span = max(values) - min(values)
    share = (value - min(values)) / span if span else 0.5
    return round(CHART_MARGIN + share * (length - 2 * CHART_MARGIN), 1)


def _scores_by_picture(scores: Sequence[Score]) -> dict[tuple[int, int], list[Score]]:
    found: dict[tuple[int, int], list[Score]] = {}
    for score in scores:
        found.setdefault((score.prompt, score.sample), []).append(score)
    return found
