#!/bin/bash
# The farm of mini on SLURM; `letterpress submit --on slurm` wrote this.

#SBATCH --job-name=mini-farm
#SBATCH --partition=preemptible
#SBATCH --account=lab
#SBATCH --qos=low
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="/shared/my runs/mini/eval/slurm-%j.out"
#SBATCH --exclusive

set -euo pipefail
PYTHON=/shared/venv/bin/python
RUN='/shared/my runs/mini'

[ -x "$PYTHON" ] || {
    echo "error: $SLURMD_NODENAME has no $PYTHON: mount it there, or leave the node out, by" \
        "slurm.flags=[--exclude=$SLURMD_NODENAME]" >&2
    exit 2
}

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
