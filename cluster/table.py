"""Results as a table of plain text, for terminals and logs."""

from collections.abc import Mapping, Sequence
from typing import Any

BAR_WIDTH = 24


def results_table(results: Mapping[str, Any], *, intervals: bool = False) -> str:
    """One row per checkpoint of a results.json: headline columns, an arrow at their better end.

    With `intervals` each value has half of its 95 % interval beside it.
    """
    columns = [column for column in results["columns"] if column["headline"]]
    head = ["", *(f"{c['title']} {'↑' if c['higher_is_better'] else '↓'}" for c in columns), "n"]
    rows = [
        [
            row["name"],
            *(_value(row, c, intervals=intervals) for c in columns),
            _n(row),
        ]
        for row in results["rows"]
    ]
    lines = align([head, *rows])
    notes = [f"{name} is absent: {reason}" for name, reason in results["absent"].items()]
    notes += [f"{row['name']}: {error}" for row in results["rows"] for error in row["errors"]]
    return "\n".join([*lines, *notes])


def headline(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> str:
    """A row of a results.json in one line: the headline columns that it has values of."""
    return ", ".join(
        f"{c['title']} {_number(row['values'][c['key']], c['decimals'])}"
        for c in columns
        if c["headline"] and c["key"] in row["values"]
    )


def bar(done: float, total: float) -> str:
    """How much of it is done, as blocks."""
    filled = round(BAR_WIDTH * done / total)
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def align(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """The rows as lines, the first `left` columns left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _value(row: Mapping[str, Any], column: Mapping[str, Any], *, intervals: bool) -> str:
    decimals = column["decimals"]
    text = _number(row["values"].get(column["key"]), decimals)
    interval = row["intervals"].get(column["key"]) if intervals else None
    return text if interval is None else f"{text}±{(interval[1] - interval[0]) / 2:.{decimals}f}"


def _n(row: Mapping[str, Any]) -> str:
    if row["n_scored"] == row["n_expected"]:
        return str(row["n_scored"])
    return f"{row['n_scored']}/{row['n_expected']}"
