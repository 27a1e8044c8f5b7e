"""Starting a run: on this machine, as a job of SLURM, or as one of Ray."""

from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, read_json
from launcher.freeze import freeze
from launcher.recipe import Recipe
from launcher.view.status import own_command


def queue(recipe: Recipe, root: Path) -> int:
    """Freeze a recipe and queue it on SLURM, with its farm."""
    from launcher.slurm.farm import farm_job
    from launcher.slurm.submit import submit_run

    job = submit_run(recipe, root)
    print(f"queued as job {job}; `{own_command()} status {root}` says how it goes")
    if farm := farm_job(read_json(RunFolder(root).state)):
        print(f"its farm is job {farm}, which starts when that has")
    elif recipe.eval:
        print(f"`sbatch slurm/evalfarm.sh {root}` scores its checkpoints; so does slurm.farm")
    return ExitCode.DONE


def submit_to_ray(recipe: Recipe, root: Path) -> int:
    """Freeze a recipe and submit it as a job of Ray."""
    from launcher.ray.jobs import submit_run

    job = submit_run(recipe, root.absolute())
    print(f"submitted as Ray job {job}; `{own_command()} status {root}` says how it goes")
    return ExitCode.DONE


def go_on_here(recipe: Recipe, run: RunFolder) -> int:
    """Run on this machine what is frozen; its exit code."""
    from launcher.local import run_here
    from launcher.view.status import results_and_places

    code = run_here(recipe, run)
    if code in (ExitCode.DONE, ExitCode.STOPPED):
        print(results_and_places(run))
    return code


def start_here(recipe: Recipe, root: Path) -> int:
    """Freeze a recipe and run it on this machine; its exit code."""
    return go_on_here(recipe, freeze(recipe, root))


STARTS = {"local": start_here, "slurm": queue, "ray": submit_to_ray}
