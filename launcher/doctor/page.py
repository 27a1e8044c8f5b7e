"""`letterpress doctor`: what a recipe needs, what is here, and what mends the rest."""

import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cluster.exit_codes import ExitCode
from cluster.table import align
from launcher.doctor.examine import ask_all, examine
from launcher.doctor.finding import Finding
from launcher.recipe import Recipe

WIDTH = 100
Section = tuple[str, list[Finding]]


def doctor(recipe: Recipe, runs: Path) -> tuple[str, ExitCode]:
    """The page, and BAD_INPUT if something that the recipe needs is lacking."""
    began_s = time.monotonic()
    sections = list(examine(recipe, runs, ask_all(recipe, runs)))
    lacking = [finding.what for _, rows in sections for finding in rows if finding.state == "lacks"]
    lines = [*table(sections), "", _verdict(recipe, lacking, time.monotonic() - began_s)]
    return "\n".join(lines), ExitCode.BAD_INPUT if lacking else ExitCode.DONE


def table(sections: Sequence[Section]) -> Iterator[str]:
    """A line for each thing, what mends it below."""
    findings = [finding for _, rows in sections for finding in rows]
    heads = align([[f"  {f.what}", f.state] for f in findings], left=2)
    indent = max(map(len, heads)) + 2
    beginnings = iter(heads)
    for number, (title, rows) in enumerate(sections):
        yield from ["", title] if number else [title]
        for finding in rows:
            found = textwrap.wrap(finding.found, WIDTH - indent, break_on_hyphens=False)
            yield next(beginnings).ljust(indent) + found[0]
            yield from (" " * indent + line for line in found[1:])
            if finding.mend:
                yield " " * indent + f"→ {finding.mend}"


def show(page: str) -> None:
    """Print the page, in colours where it is a terminal that shows them."""
    text = Text(page)
    states = r"(?m)^  \S.*?  (?:(?P<green>ok)|(?P<red>lacks)|(?P<dim>not needed))  "
    text.highlight_regex(states)
    text.highlight_regex(r"(?m)^ +(?P<cyan>→ .*)$")
    text.highlight_regex(r"(?m)^(?P<bold>\S.*)$")
    Console().print(text, soft_wrap=True)


def _verdict(recipe: Recipe, lacking: Sequence[str], took_s: float) -> str:
    took = f"asked in {took_s:.1f} s"
    if not lacking:
        return f"all that {recipe.name} needs is here; {took}"
    things = "1 thing" if len(lacking) == 1 else f"{len(lacking)} things"
    return f"{recipe.name} lacks {things}: {', '.join(lacking)}; {took}"
