"""A sweep: runs of one recipe that differ in some keys, all checked before any of them is made."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import yaml

from cluster.run_folder import RunFolder, read_json, write_json
from launcher.freeze import freeze, staged
from launcher.recipe import Recipe

Load = Callable[[Sequence[str]], Recipe]
"""Reads a recipe, with `key=value` overrides."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs that differ in some keys, each in a folder of its own below one."""

    name: str
    """Of that folder, below runs/."""
    recipes: tuple[Recipe, ...]
    """Each named as its folder: by what sets it apart, such as lr-1e-4-rank-4."""
    keys: tuple[str, ...]
    """What they differ in, such as train.optim.lr."""


def sweep_of(load: Load, overrides: Sequence[str], swept: Sequence[str], name: str | None) -> Sweep:
    """A run for every combination of the values in `swept`, each of them `key=value,value`.

    A key is spelt and a value is read as by --set. ValueError in one line for a mistake in any run.
    """
    values = _values_by_key(swept)
    combined = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    recipes = [_recipe(load, overrides, assignments) for assignments in combined]
    name = f"{recipes[0].name}-sweep" if name is None else name
    whole = replace(recipes[0], name=name)  # which checks it
    runs = [replace(r, name=_name(a)) for r, a in zip(recipes, combined, strict=True)]
    _check_together(runs)
    return Sweep(name=whole.name, recipes=tuple(runs), keys=tuple(values))


def freeze_sweep(sweep: Sweep, root: Path) -> list[RunFolder]:
    """Make the run folders of a sweep below `root`, all or none; ValueError if it is there."""
    if root.exists():
        raise ValueError(
            f"{root} exists: `letterpress status {root}` compares the runs in it, --name gives "
            "this sweep another name"
        )
    with staged(root) as staging:
        for recipe in sweep.recipes:
            run = freeze(recipe, staging / recipe.name)
            write_json(run.state, {**read_json(run.state), "swept": sweep.keys})
    return [RunFolder(root / recipe.name) for recipe in sweep.recipes]


def _values_by_key(swept: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key, as they were typed."""
    found: dict[str, list[str]] = {}
    for given in swept:
        key, _, values = given.partition("=")
        if key in found:
            raise ValueError(f"--sweep {key} is given twice: name all of its values at once")
        found[key] = _split(values)
        if not (key and found[key]):
            raise ValueError(
                f"--sweep takes key=value,value, such as train.lora.rank=4,16, got {given!r}"
            )
    return found


def _split(values: str) -> list[str]:
    """The texts between the commas that stand outside of brackets and quotes, as YAML has them."""
    text = f"[{values}]"
    try:
        listed = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return []
    if not isinstance(listed, yaml.SequenceNode):
        return []
    return [text[value.start_mark.index : value.end_mark.index] for value in listed.value]


def _recipe(load: Load, overrides: Sequence[str], assignments: Mapping[str, str]) -> Recipe:
    changes = [f"{key}={value}" for key, value in assignments.items()]
    try:
        return load([*overrides, *changes])
    except ValueError as error:
        raise ValueError(f"{' '.join(changes)}: {error}") from None


def _name(assignments: Mapping[str, str]) -> str:
    """What sets a run apart, as a folder's name: the last part of each key, and its value."""
    last = [key.rpartition(".")[2] for key in assignments]
    keys = last if len(set(last)) == len(last) else list(assignments)
    values = [value.strip("[]{}\"' ") for value in assignments.values()]
    texts = [f"{key}-{value}" for key, value in zip(keys, values, strict=True)]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(texts))


def _check_together(runs: Sequence[Recipe]) -> None:
    """ValueError if two runs would be the same, or want the same folder for different things."""
    for one, other in combinations(runs, 2):
        if replace(one, name=other.name) == other:
            raise ValueError(f"{one.name} and {other.name} would be the same run: leave one out")
        if one.name == other.name:
            raise ValueError(f"two runs would be called {one.name}: submit one of them by itself")
        data, others = one.train.data, other.train.data
        if data.path == others.path and data.sources != others.sources:
            raise ValueError(
                f"{one.name} and {other.name} would make different samples in {data.path}: submit "
                "one of them by itself, with another train.data.path"
            )
