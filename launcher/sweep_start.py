"""Starting the runs of a sweep: as a job array, as jobs of Ray, or one after the other here."""

import shutil
import sys
from pathlib import Path

from cluster.exit_codes import ExitCode
from launcher.sweep import Sweep, freeze_sweep
from launcher.view.status import own_command


def queue(sweep: Sweep, root: Path, at_once: int | None) -> int:
    """Queue a sweep on SLURM, as one job array."""
    from launcher.slurm.sweep import submit_sweep

    array = submit_sweep(sweep, root, at_once)
    print(f"queued as job {array}, a task for each of {len(sweep.recipes)} runs; {_compares(root)}")
    if any(recipe.eval and not recipe.slurm.farm for recipe in sweep.recipes if recipe.slurm):
        print("`sbatch slurm/evalfarm.sh RUN` scores a run's checkpoints; so does slurm.farm")
    return ExitCode.DONE


def submit_to_ray(sweep: Sweep, root: Path, _: int | None) -> int:
    """Submit a job of Ray for each run; Ray starts each when there is room for it."""
    from launcher.ray.jobs import connect, expect_job, submit

    client = connect()
    runs = freeze_sweep(sweep, root.absolute())
    try:
        for run in runs:
            expect_job(run)  # what Ray does not take now, `resume` submits
        jobs = [submit(run, client) for run in runs]
    except ValueError:
        shutil.rmtree(root)
        raise
    print(f"submitted as Ray jobs {', '.join(jobs)}; {_compares(root)}")
    return ExitCode.DONE


def run_all_here(sweep: Sweep, root: Path, _: int | None) -> int:
    """Run one after the other on this machine; the exit code of the first that failed.

    A run that fails does not keep the others from running; a stop ends the sweep.
    """
    from launcher.local import run_here
    from launcher.view.comparison import comparison

    codes = []
    runs = freeze_sweep(sweep, root)
    for number, (recipe, run) in enumerate(zip(sweep.recipes, runs, strict=True), start=1):
        print(f"run {number} of {len(runs)}: {recipe.name}", file=sys.stderr, flush=True)
        codes.append(run_here(recipe, run))
        if run.stop_request.exists():
            break
    print(f"{comparison(runs)}\n\ncurves    {own_command()} board {root}")
    for run in runs[len(codes) :]:
        print(f"not started: `{own_command()} resume {run.root}` starts it")
    return next((code for code in codes if code != ExitCode.DONE), ExitCode.DONE)


def _compares(root: Path) -> str:
    return f"`{own_command()} status {root}` compares them"


STARTS = {"local": run_all_here, "slurm": queue, "ray": submit_to_ray}
