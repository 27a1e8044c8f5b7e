"""The farm of a run on SLURM: a job of its own, or several, queued once beside the training's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.run_folder import RunFolder, read_json, write_json, write_text
from cluster.slurm.commands import NoAnswer, cancel, new_token, submit_once
from cluster.slurm.queue import ask_now
from launcher.recipe import Recipe
from launcher.slurm.script import output_flag, python_and_run, script, time_flag
from launcher.slurm.site import FarmJobConfig, SlurmConfig

# From here on what is rendered is what slurm/evalfarm.sh says; a test holds them together.
BODY = """\
# From here on the run's own copy of the code counts, in Ray's workers too.
cd "$RUN/code"
export PYTHONPATH="$RUN/code"

# srun has not passed --cpus-per-task on since 22.05; without this each node gives Ray one core.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# The first of the run's farm jobs leads: here it starts the head of their Ray, and on that the
# farm. The others wait for their turn, should it be lost. In the background, for bash runs no trap
# while it waits for a command in the foreground.
"$PYTHON" -m cluster.ray.on_slurm lead "$RUN" -- "$PYTHON" -m evalfarm watch --run "$RUN" &
FARM=$!

# When the time is up it leaves, with 85; when the job is ended, too, so that another may lead.
trap 'kill "$FARM" || true' USR1
trap 'kill "$FARM" || true; wait "$FARM" || true; exit 143' TERM

# A part of Ray on each node, which joins the head, whichever job has it. None takes the others
# along, whether its node dies or it fails.
srun --no-kill --kill-on-bad-exit=0 "$PYTHON" -m cluster.ray.on_slurm node "$RUN" &
NODES=$!

# Until either ends; `wait -n` would overlook what has ended before it.
while kill -0 "$FARM" 2>/dev/null && kill -0 "$NODES" 2>/dev/null; do
    sleep 1 &
    wait $! || true # a trap ends it early
done
CODE=0
if kill "$FARM" 2>/dev/null; then ENDED=$NODES; else ENDED=$FARM; fi
wait "$ENDED" || CODE=$?
wait "$FARM" || true

# 85: the time is up, or SLURM gives the nodes to others: queue again and wait for room. 75: the
# machine is to blame. Elsewhere it may go well, but not without end.
if [ "$CODE" = 85 ] || { [ "$CODE" = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; }; then
    trap '' USR1 # it would end what follows
    exec "$PYTHON" -m cluster.ray.on_slurm requeue "$RUN"
fi

exit "$CODE" # and SLURM ends the nodes' parts of Ray
"""


def farm_script(recipe: Recipe, run: Path) -> str:
    """The script of a job that scores the checkpoints of the run in the folder `run`."""
    slurm = recipe.slurm
    assert slurm is not None
    assert slurm.farm is not None
    about = f"The farm of {recipe.name} on SLURM; `letterpress submit --on slurm` wrote this."
    flags = _flags(recipe.name, slurm, slurm.farm, run)
    return script(about, flags, python_and_run(slurm, run), BODY)


def queue_farm(recipe: Recipe, run: RunFolder, training: str) -> None:
    """Queue the farm of a run, to start once the job `training` has, where the recipe asks for one.

    One that is queued or runs stays; what SLURM did not answer the last time is found by its token.
    """
    if not (recipe.eval and recipe.slurm and recipe.slurm.farm):
        return
    farm = read_json(run.state).get("slurm_farm")
    if farm and farm["number"]:
        if _goes_on(farm["number"]):
            return
        farm = None
    farm = farm or {"token": new_token(), "number": None}
    run.evaluations.mkdir(exist_ok=True)  # SLURM makes no folder for the job's output
    write_text(run.farm_script, farm_script(recipe, run.root))
    _note(run, farm)
    try:
        number = submit_once(run.farm_script, farm["token"], after=training)
    except NoAnswer as error:
        hint = f"the training is job {training}; `sbatch slurm/evalfarm.sh {run.root}` is its farm"
        raise NoAnswer(f"{error}: {hint}") from None
    _note(run, {**farm, "number": number})


def cancel_farm(run: RunFolder) -> None:
    """End the farm's job, if there is one that has not ended."""
    number = farm_job(read_json(run.state))
    if number and _goes_on(number):
        cancel(number)


def farm_job(state: dict[str, Any]) -> str | None:
    """The number of the job, or array, that a run's farm is on; None if it has none of its own."""
    number = state.get("slurm_farm", {}).get("number")
    return None if number is None else str(number)


def _note(run: RunFolder, farm: dict[str, Any]) -> None:
    write_json(run.state, {**read_json(run.state), "slurm_farm": farm})  # the run may have begun


def _goes_on(number: str) -> bool:
    """Whether a job waits or runs, or a task of an array."""
    ours = [job for key, job in ask_now().items() if key.partition("_")[0] == number]
    return not all(job.has_ended for job in ours)


def _flags(name: str, slurm: SlurmConfig, farm: FarmJobConfig, run: Path) -> Iterator[str]:
    """What the job asks for, as flags of sbatch."""
    yield f"--job-name={name}-farm"
    if farm.jobs > 1:
        yield f"--array=0-{farm.jobs - 1}"
    asked = {
        "partition": farm.partition or slurm.partition,
        "account": slurm.account,
        "qos": farm.qos or slurm.qos,
    }
    yield from (f"--{key}={value}" for key, value in asked.items() if value)
    yield from (f"--nodes={farm.nodes}", "--ntasks-per-node=1")
    yield f"--gpus-per-node={farm.gpus_per_node}"
    yield f"--cpus-per-task={farm.cpus_per_node}"
    yield time_flag(slurm)
    yield from ("--signal=B:USR1@60", "--no-kill", "--requeue", "--open-mode=append")
    job = "%A_%a" if farm.jobs > 1 else "%j"
    yield output_flag(RunFolder(run).evaluations / f"slurm-{job}.out")
    yield from farm.flags
