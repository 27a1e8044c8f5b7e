#!/bin/bash
# Score every checkpoint of a run while it trains, by a Ray over any number of nodes and jobs:
#
#     sbatch --nodes=3 slurm/evalfarm.sh runs/mini
#     sbatch --array=0-7 slurm/evalfarm.sh runs/mini    # or one now, more later: they join the first
#
# from the checkout, on a login node. The recipe's eval section says what is scored and by how many
# actors. Flags of sbatch win over the lines below. The jobs may be killed, preempted and lose nodes
# at any moment: what is done stands in the run folder. They end when the run has, or by scancel.

#SBATCH --job-name=evalfarm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1          # the node's part of Ray; it starts the actors
#SBATCH --gpus-per-node=1            # --gpus-per-node=0 where eval.device is cpu
#SBATCH --cpus-per-task=8            # a core for each generator and each scorer
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@60           # a minute before the time is up, to this shell alone
#SBATCH --no-kill                    # a node that dies does not take the others with it
#SBATCH --requeue                    # where it is preempted, or loses its first node
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

# The checkout's own environment if it has one, else the one that was active at submission.
PYTHON=$(PATH="$PWD/.venv/bin:$PATH" command -v python) || {
    echo "error: no python in $PWD/.venv nor on the PATH that the job was submitted with:" \
        "run \`make install\` there, or activate an environment and submit again" >&2
    exit 2
}

RUN=$(realpath "${1:?say which run, as in sbatch slurm/evalfarm.sh runs/mini}")

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
