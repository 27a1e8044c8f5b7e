#!/bin/bash
# Fine-tune a recipe on a node with eight A100s, without the launcher:
#
#     sbatch slurm/train_8xA100.sh recipes/mini.yaml [--set train.steps=200 …]
#
# from the checkout, on a login node. Flags of sbatch win over the lines below: for another partition
# or account, `sbatch --partition=gpu --account=lab slurm/train_8xA100.sh …`. The run folder becomes
# runs/RECIPE-JOBID. `letterpress stop runs/RECIPE-JOBID` saves and ends it.

#SBATCH --job-name=letterpress
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1          # the agent; it starts a rank for each GPU
#SBATCH --gpus-per-node=a100:8       # not --gpus-per-task, which would hide the GPUs from each other
#SBATCH --cpus-per-task=32           # 4 cores a rank: one computes, three read samples
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300          # 5 minutes before the time is up, to this shell alone
#SBATCH --requeue                    # a job that is not done, or lost a node, is queued again …
#SBATCH --open-mode=append           # … and goes on in the same file
#SBATCH --output=slurm-%j.out

set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
SAVE_S=300 # as --signal says

# The checkout's own environment if it has one, else the one that was active at submission.
PYTHON=$(PATH="$PWD/.venv/bin:$PATH" command -v python) || {
    echo "error: no python in $PWD/.venv nor on the PATH that the job was submitted with:" \
        "run \`make install\` there, or activate an environment and submit again" >&2
    exit 2
}

: "${1:?say which recipe, as in sbatch slurm/train_8xA100.sh recipes/mini.yaml}"

# Freeze the recipe and the code into the run folder; a job that is queued again finds it there.
RUN="$PWD/runs/$(basename "$1" .yaml)-$SLURM_JOB_ID"
[ -d "$RUN" ] && [ -n "${SLURM_RESTART_COUNT:-}" ] ||
    "$PYTHON" -m launcher freeze "$@" --name "$(basename "$RUN")"

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

    in_background srun --kill-on-bad-exit=1 \
        "$PYTHON" -m cluster.agent --run "$RUN" --attempt "$ATTEMPT" --slurm -- \
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
