"""Freezing a recipe into a run folder: what will run can no longer be changed by editing."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from cluster.config import to_yaml
from cluster.provenance import provenance
from cluster.run_folder import RunFolder, write_json, write_text
from cluster.state import new_state
from launcher.recipe import Recipe

PACKAGES = ("cluster", "trainer", "evalfarm", "launcher")
# Where Ray unpacks what `ray job submit --working-dir` took along, until the job ends (ray 2.60).
RAYS_COPIES = "working_dir_files"


def freeze(recipe: Recipe, root: Path) -> RunFolder:
    """Make the run folder `root`: resolved recipe, a copy of the code, where it all comes from.

    ValueError if there is something at `root` already.
    """
    if root.exists():
        raise ValueError(
            f"{root} exists: `letterpress resume {root}` goes on with it, --name gives this run "
            "another name"
        )
    if RAYS_COPIES in root.absolute().parts:
        raise ValueError(
            f"{root.absolute()} would be lost: it lies in a copy that Ray removes with its job. "
            "`letterpress submit --on ray` starts such a job, from a folder that all nodes share"
        )
    staging = RunFolder(root.with_name(f".{root.name}.frozen.tmp"))
    shutil.rmtree(staging.root, ignore_errors=True)
    try:
        staging.root.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"{root} cannot be made: {error.strerror}. Runs lie below the folder that you are in: "
            "change to one that you may write"
        ) from None
    write_text(staging.recipe, to_yaml(recipe))
    copy_code(staging.code)
    write_json(staging.state, new_state(provenance(_package("launcher").parent)))
    staging.root.rename(root)
    return RunFolder(root)


def copy_code(folder: Path) -> None:
    """Copy the packages as they are now, whether installed or in a checkout."""
    for name in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_package(name), folder / name, ignore=ignore)


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None, name
    assert spec.origin is not None, name
    return Path(spec.origin).parent
