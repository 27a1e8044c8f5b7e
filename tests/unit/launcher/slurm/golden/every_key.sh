#!/bin/bash
# Trains mini on SLURM; `letterpress submit --on slurm` wrote this.

#SBATCH --job-name=mini
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --qos=high
#SBATCH --constraint=a100-80gb&ib
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=a100:8
#SBATCH --cpus-per-task=128
#SBATCH --mem=900G
#SBATCH --time=47:30:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="/shared/my runs/mini/slurm-%j.out"
#SBATCH --exclusive
#SBATCH --reservation=spring

set -euo pipefail
PYTHON=/shared/venv/bin/python
RUN='/shared/my runs/mini'

[ -x "$PYTHON" ] || {
    echo "error: $SLURMD_NODENAME has no $PYTHON: mount it there, or leave the node out, by" \
        "slurm.flags=[--exclude=$SLURMD_NODENAME]" >&2
    exit 2
}

SAVE_S=600

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

    in_background srun --kill-on-bad-exit=1 --container-image=train.sqsh \
        apptainer exec --nv 'my image.sif' "$PYTHON" -m cluster.agent --run "$RUN" --attempt "$ATTEMPT" --slurm -- \
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
