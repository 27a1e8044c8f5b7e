"""Which runs there are, and what to call them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster.run_folder import RunFolder, read_json


def runs_below(folder: Path) -> list[RunFolder]:
    """The run folders in a folder, and those in its folders: a sweep's. By name."""
    recipes = [*folder.glob("[!.]*/recipe.yaml"), *folder.glob("[!.]*/[!.]*/recipe.yaml")]
    return [RunFolder(path.parent) for path in sorted(recipes)]


def run_at(path: Path) -> RunFolder:
    """The run folder at a path; ValueError if there is none, or half of one."""
    run = RunFolder.existing(path)
    if not is_whole(run):
        raise ValueError(f"{path} is half a run folder: its {run.state.name} cannot be read")
    return run


def is_whole(run: RunFolder) -> bool:
    """Whether a run's record can be read: freezing makes none without one, copying may."""
    try:
        read_json(run.state)
    except (OSError, ValueError):
        return False
    return True


def runs_at(paths: Iterable[Path]) -> list[RunFolder]:
    """The runs that paths name: each a run folder or one that holds some, else ValueError."""
    found: list[RunFolder] = []
    for path in paths:
        below = [] if RunFolder(path).recipe.is_file() else runs_below(path)
        found += [run_at(run.root) for run in below] or [run_at(path)]
    return found


def short_names(runs: Sequence[RunFolder]) -> list[str]:
    """What to call each run: its path below the folder that holds them all."""
    above = os.path.commonpath([run.root.parent for run in runs]) if runs else ""
    return [str(run.root.relative_to(above)) for run in runs]
