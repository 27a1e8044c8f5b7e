"""The packages that a recipe needs, against what the project asks for and was tested with."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from launcher.doctor.finding import Finding, lacks, not_needed, ok
from launcher.recipe import Recipe

CHECKOUT = Path(__file__).parents[2]
SHOWN = 4


def package_findings(recipe: Recipe, checkout: Path = CHECKOUT) -> Iterator[Finding]:
    """A row for each set of packages, and one for the versions that were tested."""
    if not (checkout / "pyproject.toml").is_file():
        yield not_needed("packages", f"{checkout} is no checkout: there is nothing to compare with")
        return
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    for extra in _extras(recipe):
        yield _extra(extra, project["optional-dependencies"])
    yield _tested(checkout / "constraints.txt")


def requirements(extra: str, extras: Mapping[str, list[str]]) -> list[str]:
    """The requirements of an extra, and of those that it names; our own name is not one."""
    found = []
    for requirement in extras[extra]:
        inner = re.fullmatch(r"letterpress\[(.+)\]", requirement)
        found += requirements(inner[1], extras) if inner else [requirement]
    return found


def _extras(recipe: Recipe) -> list[str]:
    extras = ["eval" if recipe.eval or _reads(recipe) else "train"]
    return [*extras, "eight-bit"] if recipe.train.optim.eight_bit else extras


def _reads(recipe: Recipe) -> bool:
    """Whether training itself needs PP-OCR's weights, which are the farm's packages."""
    reward = recipe.train.reward
    return bool(recipe.train.objective.ocr or (reward and "ocr" in reward.rewards))


def _extra(extra: str, extras: Mapping[str, list[str]]) -> Finding:
    wanted = requirements(extra, extras)
    wrong = [fault for fault in map(_fault, wanted) if fault]
    if not wrong:
        return ok(f"packages: {extra}", f"{len(wanted)}, all there")
    mend = f"pip install -c constraints.txt -e '.[{extra}]'"
    return lacks(f"packages: {extra}", _shown(wrong), mend)


def _fault(requirement: str) -> str | None:
    """What is wrong with one package; None if nothing is."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    name = match[0]
    limits = re.sub(r"^\[.*?\]", "", requirement[len(name) :])
    try:
        here = version(name)
    except PackageNotFoundError:
        return f"{name} is not there"
    return None if _within(here, limits) else f"{name} is {here}, not {limits}"


def _within(here: str, limits: str) -> bool:
    """Whether a version lies in a range such as `>=1,<2`, by the numbers in it."""
    if not limits:
        return True
    bounds: Any = [re.fullmatch(r"\s*(>=|<)\s*([\d.]+)\s*", limit) for limit in limits.split(",")]
    assert all(bounds), limits
    return all(
        _numbers(here) >= _numbers(bound[2])
        if bound[1] == ">="
        else _numbers(here) < _numbers(bound[2])
        for bound in bounds
    )


def _numbers(text: str) -> list[int]:
    """The release of a version: 2.13.0+cpu is 2, 13, 0."""
    release = re.match(r"[\d.]+", text)
    numbers = [int(number) for number in (release[0] if release else "0").strip(".").split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def _tested(constraints: Path) -> Finding:
    lines = re.findall(r"^([^#\s=]+)==(\S+)$", constraints.read_text(), re.MULTILINE)
    others = []
    for name, tested in lines:
        try:
            here = version(name)
        except PackageNotFoundError:
            continue  # what is needed and not there has a row of its own
        if _numbers(here) != _numbers(tested):
            others.append(f"{name} is {here}, not {tested}")
    if not others:
        return ok("versions", f"those that were tested, of {len(lines)} packages")
    return ok(
        "versions",
        f"not all are those that were tested: {_shown(others)}",
        "pip install -r constraints.txt",
    )


def _shown(faults: list[str]) -> str:
    more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return ", ".join(faults[:SHOWN]) + more
