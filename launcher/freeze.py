"""Freezing a recipe into a run folder: what will run can no longer be changed by editing."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
    with staged(root) as staging:
        run = RunFolder(staging)
        write_text(run.recipe, to_yaml(recipe))
        copy_code(run.code)
        write_json(run.state, new_state(provenance(_package("launcher").parent)))
    return RunFolder(root)


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """A folder that becomes `root` when all is in it; ValueError if it cannot, and nothing is left.

    Its name is nobody else's: who makes the same `root` meanwhile is not disturbed.
    """
    staging = root.with_name(f".{root.name}.{secrets.token_hex(4)}.frozen.tmp")
    try:
        staging.mkdir(parents=True)
        yield staging
        staging.rename(root)
    except OSError as error:
        if root.exists():
            raise ValueError(f"{root} was made meanwhile: --name gives this another name") from None
        raise ValueError(
            f"{root} cannot be made: {_reason(error)}. Runs lie below the folder that you are in: "
            "change to one that you may write, and that has room"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def copy_code(folder: Path) -> None:
    """Copy the packages as they are now, whether installed or in a checkout."""
    for name in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_package(name), folder / name, ignore=ignore)


def _reason(error: OSError) -> str:
    """Why a folder cannot be made; of many files that cannot be copied, the first one's reason."""
    why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
    return str(why).partition(": ")[0]


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None, name
    assert spec.origin is not None, name
    return Path(spec.origin).parent
