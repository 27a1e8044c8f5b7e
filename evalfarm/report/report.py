"""What people look at: report.html, one file that needs no server, and a table of every picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from cluster.run_folder import write_json, write_text
from evalfarm.evaluation import Evaluation
from evalfarm.metrics.base import column_key
from evalfarm.report.charts import chart
from evalfarm.report.gallery import Cell, Gallery, extremes
from evalfarm.report.picture_table import picture_table
from evalfarm.results.results import summarize
from evalfarm.results.verdict import verdict

SHOWN_PROMPTS = 48
SHOWN_CHECKPOINTS = 8
LISTED_PROMPTS = 300


def write_reports(evaluation: Evaluation) -> dict[str, Any]:
    """Write results.json, verdict.json, pictures.csv and report.html from the ledger; the
    results."""
    results = summarize(evaluation)
    write_json(evaluation.folder / "results.json", results)
    write_json(evaluation.folder / "verdict.json", verdict(evaluation, results))
    write_text(evaluation.folder / "pictures.csv", picture_table(evaluation))
    write_text(evaluation.folder / "report.html", report_page(evaluation, results))
    return results


def report_page(evaluation: Evaluation, results: Mapping[str, Any]) -> str:
    """The page: numbers, curves, groups, best and worst pictures, the same prompts over the
    steps, and prompt by prompt from the first checkpoint to the last."""
    template = files("evalfarm.report").joinpath("report.html.j2").read_text()
    shown = spread(results["rows"], SHOWN_CHECKPOINTS)
    galleries = [Gallery(evaluation, row["checkpoint"]) for row in shown]
    charts = [chart(column, results["rows"]) for column in results["columns"]]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page: str = environment.from_string(template).render(
        results=results,
        suite=evaluation.suite,
        best=_best(results),
        charts=[found for found in charts if found],
        shown=shown,
        grid=_grid(evaluation, galleries),
        extremes=extremes(galleries[-1]) if galleries else [],
        last=shown[-1] if shown else None,
        prompts=_prompt_lines(evaluation, galleries),
        listed=LISTED_PROMPTS,
    )
    return page


def spread(rows: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the rows, the first and the last among them, as evenly as can be."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (count - 1))] for place in range(count)]


def _best(results: Mapping[str, Any]) -> dict[str, float]:
    """The best value of each column, where there are several to choose from."""
    best: dict[str, float] = {}
    for column in results["columns"]:
        key = column["key"]
        values = [row["values"][key] for row in results["rows"] if key in row["values"]]
        if len(set(values)) > 1:
            best[key] = max(values) if column["higher_is_better"] else min(values)
    return best


def _grid(
    evaluation: Evaluation, galleries: Sequence[Gallery]
) -> list[tuple[str, list[Cell | None]]]:
    """Prompt by prompt, its first picture at each checkpoint."""
    return [
        (prompt.text, [gallery.cell(number, 0) for gallery in galleries])
        for number, prompt in enumerate(evaluation.suite.prompts[:SHOWN_PROMPTS])
    ]


@dataclass(frozen=True, kw_only=True)
class PromptLine:
    """A prompt's numbers, first and last: the means over its pictures."""

    number: int
    text: str
    group: str
    values: list[tuple[float | None, float | None]]
    """In the order of the report's columns that are means."""


def _prompt_lines(evaluation: Evaluation, galleries: Sequence[Gallery]) -> dict[str, Any]:
    """The columns that are means, and a line per prompt."""
    if not galleries:
        return {"columns": [], "keys": set(), "lines": [], "has_groups": False}
    ends = [galleries[0].prompt_means(), galleries[-1].prompt_means()]
    columns = [
        (column_key(metric, column), metric.rows, column.mean_of, column)
        for metric in evaluation.metrics.values()
        for column in metric.columns
        if column.mean_of
    ]
    has_groups = any(prompt.group for prompt in evaluation.suite.prompts)
    lines = [
        PromptLine(
            number=number,
            text=prompt.text,
            group=prompt.group,
            values=[
                (ends[0].get((number, rows, name)), ends[1].get((number, rows, name)))
                for _, rows, name, _ in columns
            ],
        )
        for number, prompt in enumerate(evaluation.suite.prompts[:LISTED_PROMPTS])
        if not prompt.filler
    ]
    return {
        "columns": [column for *_, column in columns],
        "keys": {key for key, *_ in columns},
        "lines": lines,
        "has_groups": has_groups,
    }
