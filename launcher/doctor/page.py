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
from launcher.doctor.finding import Finding, State
from launcher.recipe import Recipe

WIDTH = 100
Section = tuple[str, list[Finding]]


def doctor(recipe: Recipe, runs: Path) -> tuple[str, ExitCode]:
    """The page, and BAD_INPUT if something that the recipe needs is lacking.

    RETRY_ELSEWHERE if nothing is, but not everything answered.
    """
    began_s = time.monotonic()
    sections = list(examine(recipe, runs, ask_all(recipe, runs)))
    lacking, silent = (_in_state(state, sections) for state in ("lacks", "no answer"))
    verdict = f"{_verdict(recipe, lacking, silent)}; asked in {time.monotonic() - began_s:.1f} s"
    page = "\n".join([*table(sections), "", verdict])
    if lacking:
        return page, ExitCode.BAD_INPUT
    return page, ExitCode.RETRY_ELSEWHERE if silent else ExitCode.DONE


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
    states = "(?P<green>ok)|(?P<red>lacks)|(?P<yellow>no answer)|(?P<dim>not needed)"
    text.highlight_regex(rf"(?m)^  \S.*?  (?:{states})  ")
    text.highlight_regex(r"(?m)^ +(?P<cyan>→ .*)$")
    text.highlight_regex(r"(?m)^(?P<bold>\S.*)$")
    Console().print(text, soft_wrap=True)


def _in_state(state: State, sections: Sequence[Section]) -> list[str]:
    return [finding.what for _, rows in sections for finding in rows if finding.state == state]


def _verdict(recipe: Recipe, lacking: Sequence[str], silent: Sequence[str]) -> str:
    unknown = f"no answer of {', '.join(silent)}"
    if lacking:
        things = "1 thing" if len(lacking) == 1 else f"{len(lacking)} things"
        lacks = f"{recipe.name} lacks {things}: {', '.join(lacking)}"
        return f"{lacks}; {unknown}" if silent else lacks
    if silent:
        return f"nothing that answered is lacking for {recipe.name}; {unknown}"
    return f"all that {recipe.name} needs is here"
