"""The best checkpoint of each of some runs, by what their farms left of a suite."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.run_folder import RunFolder, read_json
from cluster.table import results_table

Results = Mapping[str, Any]
"""A results.json, of one suite."""
Column = Mapping[str, Any]
Row = Mapping[str, Any]
"""Of one checkpoint."""


def best_checkpoints(runs: Mapping[str, RunFolder], by: str | None) -> list[str]:
    """For each suite the lines of a table with the best checkpoint of each run, best first.

    `by` is the metric that decides; else the first of the headline that tells them apart.
    ValueError if no run is scored by it.
    """
    suites: dict[str, dict[str, Results]] = {}
    for name, run in runs.items():
        for path in sorted(run.evaluations.glob("*/results.json")):
            results = read_json(path)  # what does not ask the same has a table of its own
            suites.setdefault(f"{results['suite']} {results['digest']}", {})[name] = results
    _check_metric(by, [results for found in suites.values() for results in found.values()])
    lines: list[str] = []
    for found in suites.values():
        lines += ["", *_suite_lines(found, by, [name for name in runs if name not in found])]
    return lines


def _check_metric(by: str | None, results: Sequence[Results]) -> None:
    keys = {column["key"] for one in results for column in one["columns"]}
    if by is not None and not any(_is_called(key, by) for key in keys):
        there = ", ".join(sorted({key.partition("/")[0] for key in keys})) or "no metric yet"
        raise ValueError(f"no run is scored by {by!r}: there is {there}")


def _suite_lines(runs: Mapping[str, Results], by: str | None, unscored: list[str]) -> list[str]:
    suite = next(iter(runs.values()))
    scored = {
        name: [row for row in results["rows"] if row["complete"] and row["step"] is not None]
        for name, results in runs.items()
    }
    column = _deciding(suite["columns"], [row for rows in scored.values() for row in rows], by)
    if column is None:
        return [f"suite {suite['suite']}: no checkpoint is scored yet"]
    best = {name: _best(rows, column) for name, rows in scored.items()}
    rows = [{**row, "name": f"{name}@{row['step']}"} for name, row in best.items() if row]
    rows.sort(key=lambda row: _worse(row, column))
    others = "" if by else "; --by names another metric"
    lines = [f"suite {suite['suite']}: of each run the best by {column['title']}{others}"]
    columns = [{**c, "headline": c["headline"] or c is column} for c in suite["columns"]]
    lines.append(results_table({**suite, "columns": columns, "rows": rows}, intervals=True))
    unscored += [name for name, row in best.items() if not row]
    return lines + ([f"not scored yet: {', '.join(unscored)}"] if unscored else [])


def _deciding(columns: Sequence[Column], rows: Sequence[Row], by: str | None) -> Column | None:
    """The column that decides; None if none of the rows has it."""
    there = [column for column in columns if any(column["key"] in row["values"] for row in rows)]
    asked = [column for column in there if by is not None and _is_called(column["key"], by)]
    headline = [column for column in there if column["headline"]]
    telling = [c for c in headline if len({row["values"].get(c["key"]) for row in rows}) > 1]
    return next(iter([*asked, *telling, *headline]), None)


def _best(rows: Sequence[Row], column: Column) -> Row | None:
    """Of equal ones the earlier."""
    there = [row for row in rows if column["key"] in row["values"]]
    return min(there, key=lambda row: (_worse(row, column), row["step"]), default=None)


def _worse(row: Row, column: Column) -> float:
    """A number that is the lower the better the row is."""
    value = float(row["values"][column["key"]])
    return -value if column["higher_is_better"] else value


def _is_called(key: str, name: str) -> bool:
    return name in (key, key.partition("/")[0])
