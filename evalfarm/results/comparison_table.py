"""A comparison of two checkpoints as text."""

from cluster.table import align
from evalfarm.results.compare import Comparison, Difference
from evalfarm.results.record import labels


def comparison_table(comparison: Comparison) -> str:
    """A comparison as text: a line per column, and what the words mean."""
    expected = comparison.second.row["n_expected"]
    names = labels((comparison.first, comparison.second))
    head = ["", *names, "difference", "95 % interval", "p", "n", ""]
    rows = [_line(one, expected) for one in comparison.differences]
    real = [one for one in comparison.differences if one.word in ("better", "worse")]
    return "\n".join(
        [
            *align([head, *rows]),
            "",
            f"{len(real)} of {len(rows)} differences are real: p, Holm's over all of them, "
            "is below 0.05",
            "the intervals are of each column by itself, clustered by prompt",
            *(f"{key} is not compared: {reason}" for key, reason in comparison.left_out.items()),
        ]
    )


def _line(difference: Difference, n_expected: int) -> list[str]:
    column = difference.column
    decimals, estimate = column["decimals"], difference.estimate
    change = difference.second - difference.first
    between = f"{estimate.low:+.{decimals}f} … {estimate.high:+.{decimals}f}" if estimate else "–"
    p = "–" if estimate is None else f"{difference.p:.3f}" if difference.p >= 0.001 else "< 0.001"
    n = str(difference.n) if difference.n == n_expected else f"{difference.n}/{n_expected}"
    return [
        f"{column['title']} {'↑' if column['higher_is_better'] else '↓'}",
        f"{difference.first:.{decimals}f}",
        f"{difference.second:.{decimals}f}",
        f"{change:+.{decimals}f}",
        between,
        p,
        n,
        difference.word,
    ]
