"""A curve over the steps with the band of its intervals, as what an SVG is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 26
TICKS = 4


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    """Pixels from the left or the top."""
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """All places in pixels, from the left and the top."""

    column: Mapping[str, Any]
    """As in results.json."""
    n: str
    """Pictures in each point."""
    points: list[tuple[float, float, str]]
    """x, y and what stands there in words."""
    band: list[tuple[float, float]]
    """The outline of the intervals; empty without any."""
    steps: list[Tick]
    values: list[Tick]


def chart(column: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The curve of a column over the rows of results.json that have a step; None without any."""
    key = column["key"]
    known = [row for row in rows if row["step"] is not None and key in row["values"]]
    if not known:
        return None
    decimals = column["decimals"]
    bands = [row["intervals"].get(key, [row["values"][key]] * 2) for row in known]
    values = nice_ticks(min(low for low, _ in bands), max(high for _, high in bands))
    last = max(row["step"] for row in known)
    steps = [tick for tick in nice_ticks(0, last) if tick <= max(last, 1)]
    across = _scale(0, max(last, 1), LEFT, WIDTH - RIGHT)
    up = _scale(values[0], values[-1], HEIGHT - BOTTOM, TOP)
    edges = [
        (across(row["step"]), up(low), up(high))
        for row, (low, high) in zip(known, bands, strict=True)
    ]
    counts = sorted({row["n"][key] for row in known})
    return Chart(
        column=column,
        n=str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
        points=[
            (
                across(row["step"]),
                up(row["values"][key]),
                f"step {row['step']}: {row['values'][key]:.{decimals}f}, "
                f"95 % {low:.{decimals}f} to {high:.{decimals}f}, n {row['n'][key]}",
            )
            for row, (low, high) in zip(known, bands, strict=True)
        ],
        band=[(x, low) for x, low, _ in edges] + [(x, high) for x, _, high in reversed(edges)],
        steps=[Tick(at=across(tick), label=_short(tick)) for tick in steps],
        values=[Tick(at=up(tick), label=_short(tick)) for tick in values],
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, some TICKS of them."""
    span = high - low
    if span <= 1e-6 * max(abs(low), abs(high)):  # or rounding would make an axis of its own
        span = abs(high) or 1.0
    size = 10 ** floor(log10(span / TICKS))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if span / (size * factor) <= TICKS)
    first, last = floor(round(low / step, 9)), ceil(round(high / step, 9))
    # Multiplied, not summed up: 0.1 + 0.2 would be labelled 0.30000000000000004.
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Any:
    """From values to pixels."""
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _short(value: float) -> str:
    """`20000` as 20k: an axis has little room."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
