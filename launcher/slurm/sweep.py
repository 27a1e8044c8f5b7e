"""A sweep on SLURM: one job array, whose tasks are its runs."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cluster.run_folder import RunFolder, write_text
from cluster.slurm.commands import NoAnswer, NoSlurm, Refused, cancel, new_token, submit_once
from cluster.slurm.nodes import check_asked
from launcher.recipe import Recipe
from launcher.slurm.farm import cancel_farm, queue_farm
from launcher.slurm.script import script
from launcher.slurm.submit import asked_of, expect_job, flags_of, note_number
from launcher.sweep import Sweep, freeze_sweep

BODY = """\
RUN="$SWEEP/${RUNS[$SLURM_ARRAY_TASK_ID]}"

# Where this run looks for what its job printed. SLURM has one pattern for all tasks.
OUTPUT="slurm-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.out"
ln -sfn "../$OUTPUT" "$RUN/$OUTPUT"

# The run's own script, as if it had been queued by itself. In place of this shell, for SLURM's
# warning before the time limit comes to this process.
exec bash "$RUN/job.sh"
"""


def array_script(sweep: Sweep, root: Path, at_once: int | None = None) -> str:
    """The script of the job array that trains what is frozen below the folder `root`.

    ValueError if the runs ask SLURM for different things: all tasks of an array have the same.
    """
    whole, *others = (replace(recipe, name=sweep.name) for recipe in sweep.recipes)
    output = root / "slurm-%A_%a.out"
    flags = list(flags_of(whole, output))
    for recipe, other in zip(sweep.recipes[1:], others, strict=True):
        theirs = list(flags_of(other, output))
        if theirs != flags:
            more = [flag for flag in theirs if flag not in flags]
            less = [f"no {flag}" for flag in flags if flag not in theirs]
            raise ValueError(
                f"all runs of a sweep on SLURM are tasks of one job array and get the same, but "
                f"{recipe.name} asks for {' '.join(more or less)}: submit a sweep for each"
            )
    tasks = f"0-{len(sweep.recipes) - 1}" + (f"%{at_once}" if at_once else "")
    about = f"The runs of {sweep.name}, a task each; `letterpress submit --sweep` wrote this."
    runs = ["RUNS=(", *(f"    {recipe.name}" for recipe in sweep.recipes), ")"]
    variables = [f"SWEEP={shlex.quote(str(root))}", *runs]
    return script(about, [f"--array={tasks}", *flags], variables, BODY)


def submit_sweep(sweep: Sweep, root: Path, at_once: int | None = None) -> str:
    """Freeze a sweep and queue it; the array's number. Nothing is left if SLURM refuses it."""
    script = array_script(sweep, root.absolute(), at_once)
    check_asked(asked_of(sweep.recipes[0]))
    runs = freeze_sweep(sweep, root)
    try:
        return _queue(script, sweep.recipes, runs)
    except (Refused, NoSlurm):
        shutil.rmtree(root)
        raise


def _queue(script: str, recipes: Sequence[Recipe], runs: Sequence[RunFolder]) -> str:
    """Queue the array; without an answer each run finds its task by the token that they share."""
    token, path = new_token(), runs[0].root.parent / "job.sh"
    write_text(path, script)
    for task, (recipe, run) in enumerate(zip(recipes, runs, strict=True)):
        expect_job(recipe, run, token=token, task=task)
    try:
        number = submit_once(path, token)
    except NoAnswer as error:
        hint = "`letterpress resume` of each run looks whether it is queued, and queues it if not"
        raise NoAnswer(f"{error}: {hint}") from None
    for task, run in enumerate(runs):
        note_number(run, f"{number}_{task}")
    _queue_farms(recipes, runs, number)
    return number


def _queue_farms(recipes: Sequence[Recipe], runs: Sequence[RunFolder], array: str) -> None:
    """Queue the farms that the recipes ask for; where SLURM refuses one, nothing stays queued."""
    try:
        for task, (recipe, run) in enumerate(zip(recipes, runs, strict=True)):
            queue_farm(recipe, run, f"{array}_{task}")
    except Refused:
        cancel(array)
        for run in runs:
            cancel_farm(run)
        raise
