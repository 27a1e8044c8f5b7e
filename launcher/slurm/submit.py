"""The backend that runs on SLURM: a job script like those in slurm/, queued once, and ended."""

import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.config import build, read_yaml
from cluster.run_folder import RunFolder, read_json, write_json, write_text
from cluster.slurm.commands import (
    NoAnswer,
    NoSlurm,
    Refused,
    cancel,
    find_job,
    new_token,
    start_now,
    submit_once,
)
from cluster.slurm.excluded import excluded_nodes
from cluster.slurm.nodes import Asked, check_asked
from cluster.slurm.run_job import slurm_job
from cluster.state import cancel_run
from launcher.freeze import freeze
from launcher.recipe import RanksConfig, Recipe
from launcher.slurm.farm import cancel_farm, queue_farm
from launcher.slurm.script import output_flag, python_and_run, script, time_flag
from launcher.slurm.site import SlurmConfig, minutes, site_file, site_keys

# From here on what is rendered is what slurm/train_8xA100.sh says; a test holds them together.
BODY = """\
# From here on the run's own copy of the code counts.
cd "$RUN/code"

# When the time is nearly up: the ranks save at their next step and leave. They get no signal.
TIME_IS_UP=
trap 'TIME_IS_UP=1 GIVE_UP=$((SECONDS + (SAVE_S > 60 ? SAVE_S - 30 : SAVE_S / 2)))
    [ -e "$RUN/STOP" ] || echo "the time of job $SLURM_JOB_ID is nearly up" > "$RUN/STOP"' USR1

# In the background, for bash runs no trap while it waits for a command in the foreground. What does
# not end half a minute before the job would is given up, and the job queued again.
in_background() {
    "$@" &
    while kill -0 $! 2>/dev/null; do
        if [ -z "$TIME_IS_UP" ]; then
            wait $! || true # a trap ends it early
        elif [ "$SECONDS" -lt "$GIVE_UP" ]; then
            sleep 1
        else
            exec "$PYTHON" -m launcher requeue "$RUN"
        fi
    done
    wait $!
}

# The samples, and their latents if the recipe has a cache; at no cost where they are there.
CODE=0
in_background "$PYTHON" -m trainer.data prepare --config "$RUN/recipe.yaml" || CODE=$?
[ "$CODE" = 0 ] || [ -n "$TIME_IS_UP" ] || exit "$CODE"

# srun has not passed --cpus-per-task on since 22.05; without this each agent gets one core.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

NEXT=again
[ -z "$TIME_IS_UP" ] || NEXT=requeue # it went while the samples were made
while [ "$NEXT" = again ]; do
    ATTEMPT=$("$PYTHON" -m launcher begin "$RUN")

    in_background srun --kill-on-bad-exit=1 \\
        "$PYTHON" -m cluster.agent --run "$RUN" --attempt "$ATTEMPT" --slurm -- \\
        "$PYTHON" -m trainer --config "$RUN/recipe.yaml" --attempt "$ATTEMPT" || true

    # How the attempt ended, by the agents' own records, and what may help: `again` on these nodes,
    # `requeue`, on others or later, or that it is `over`.
    CODE=0
    NEXT=$("$PYTHON" -m launcher end "$RUN" "$ATTEMPT") || CODE=$?
    [ -z "$TIME_IS_UP" ] || [ "$NEXT" != again ] || NEXT=requeue
done

# The last act: SLURM ends whatever the job still does. In place of this shell, or that would be it.
trap '' USR1
[ "$NEXT" != requeue ] || exec "$PYTHON" -m launcher requeue "$RUN"

exit "$CODE"
"""


def job_script(recipe: Recipe, run: Path) -> str:
    """The script of a job that trains what is frozen in the folder `run`."""
    slurm = recipe.slurm or SlurmConfig()
    srun, agent = "srun --kill-on-bad-exit=1", '"$PYTHON" -m cluster.agent'
    body = BODY.replace(srun, shlex.join([*srun.split(), *slurm.srun_flags]))
    body = body.replace(agent, f"{shlex.join(slurm.inside)} {agent}" if slurm.inside else agent)
    about = f"Trains {recipe.name} on SLURM; `letterpress submit --on slurm` wrote this."
    flags = flags_of(recipe, run / "slurm-%j.out")
    variables = [*python_and_run(slurm, run), f"SAVE_S={slurm.save_before_end_s}\n"]
    return script(about, flags, variables, body)


def submit_run(recipe: Recipe, root: Path) -> str:
    """Freeze a recipe and queue it, with its farm; the job's number.

    Nothing is left if SLURM refuses either.
    """
    check_asked(asked_of(recipe))
    run = freeze(recipe, root)
    try:
        number = queue_run(recipe, run)
        try:
            queue_farm(recipe, run, number)
        except Refused:
            cancel(number)
            raise
    except (Refused, NoSlurm):
        shutil.rmtree(run.root)
        raise
    return number


def queue_run(recipe: Recipe, run: RunFolder) -> str:
    """Queue a job for a frozen run; its number.

    If SLURM did not answer the last time, the job that it may have queued is found by its token.
    """
    state = read_json(run.state)
    job = state.get("slurm_job") or {}
    if "task" in job and not job["number"]:
        if number := _find_lost_answer(run, state):
            return number
        job = {}
    if "token" not in job or job["number"]:
        job = {"token": new_token()}
    expect_job(recipe, run, **job)
    try:
        number = submit_once(run.job_script, job["token"], excluded=excluded_nodes(state).now)
    except NoAnswer as error:
        hint = f"`letterpress resume {run.root}` looks whether it is queued, and queues it if not"
        raise NoAnswer(f"{error}: {hint}") from None
    except (Refused, NoSlurm):
        write_json(run.state, state)  # as if nobody had asked
        raise
    return note_number(run, number)


def expect_job(recipe: Recipe, run: RunFolder, **job: Any) -> None:
    """Write a run's script, and down what its job will be known by, before it is asked for."""
    write_text(run.job_script, job_script(recipe, run.root))
    run.clear_stop_request()
    job |= {"number": None, "submitted": time.time()}
    write_json(run.state, {**read_json(run.state), "slurm_job": job, "outcome": None})


def note_number(run: RunFolder, number: str) -> str:
    """Record the number that SLURM gave a run's job, and return it."""
    state = read_json(run.state)  # it may have begun
    if state["slurm_job"]["number"] != number:
        state["slurm_job"]["number"] = number
        write_json(run.state, state)
    return number


def resume_job(run: RunFolder, *, is_queued: bool) -> str:
    """Queue a new job for a run, or let the one that waits start now; what was done, in a line."""
    if not is_queued:
        recipe = recipe_of(run)
        number = queue_run(recipe, run)
        queue_farm(recipe, run, number)
        return f"queued as job {number}"
    job = slurm_job(read_json(run.state))
    assert job is not None
    start_now(job)
    return f"job {job} is queued already; asked SLURM to start it now"


def cancel_job(run: RunFolder) -> str:
    """End a run's job; what was done, in a line."""
    state = read_json(run.state)
    job = slurm_job(state) or _find_lost_answer(run, state)
    if job is None or state["outcome"]:
        raise ValueError(f"{run.root} is {state['outcome'] or 'new'}: there is no job to cancel")
    cancel(job)
    cancel_farm(run)
    cancel_run(run)
    return f"cancelled job {job}; what was published last can be resumed from"


def _find_lost_answer(run: RunFolder, state: dict[str, Any]) -> str | None:
    """The number of the job that SLURM took without answering; None if it did not."""
    job = state["slurm_job"]
    number = None if job["number"] else find_job(job["token"])
    if number is None:
        return None
    return note_number(run, f"{number}_{job['task']}" if "task" in job else number)


def recipe_of(run: RunFolder) -> Recipe:
    """What a run was frozen with; what it does not say of SLURM, the site says."""
    recipe = build(Recipe, read_yaml(run.recipe))
    if recipe.slurm is None:  # a script was typed: on as many nodes as it had
        recipe = replace(recipe, slurm=build(SlurmConfig, site_keys(site_file())))
        attempts = read_json(run.state)["attempts"]
        if attempts and "ranks_per_node" in attempts[-1]:
            nodes, ranks = len(attempts[-1]["hosts"]), attempts[-1]["ranks_per_node"]
            recipe = replace(recipe, ranks=RanksConfig(nodes=nodes, per_node=ranks))
    return recipe


def flags_of(recipe: Recipe, output: Path) -> Iterator[str]:
    """What a recipe's job asks for, as flags of sbatch; the file's name may hold SLURM's %j."""
    slurm = recipe.slurm or SlurmConfig()
    gpus = f"{slurm.gpu_type}:" if slurm.gpu_type else ""
    yield f"--job-name={recipe.name}"
    for key in ("partition", "account", "qos", "constraint"):
        if value := getattr(slurm, key):
            yield f"--{key}={value}"
    yield f"--nodes={recipe.ranks.nodes}"
    yield "--ntasks-per-node=1"
    yield f"--gpus-per-node={gpus}{recipe.ranks.per_node}"
    yield f"--cpus-per-task={slurm.cpus_per_gpu * recipe.ranks.per_node}"
    if slurm.memory_gb:
        yield f"--mem={slurm.memory_gb}G"
    yield time_flag(slurm)
    yield f"--signal=B:USR1@{slurm.save_before_end_s}"
    yield from ("--requeue", "--open-mode=append")
    yield output_flag(output)
    yield from slurm.flags


def asked_of(recipe: Recipe) -> Asked:
    """What a recipe's job asks of a partition."""
    slurm = recipe.slurm or SlurmConfig()
    return Asked(
        partition=slurm.partition,
        nodes=recipe.ranks.nodes,
        gpus_per_node=recipe.ranks.per_node,
        gpu_type=slurm.gpu_type,
        cpus_per_node=slurm.cpus_per_gpu * recipe.ranks.per_node,
        memory_gb=slurm.memory_gb,
        minutes=minutes(slurm),
    )
