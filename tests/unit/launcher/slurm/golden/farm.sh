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

# From here on the run's own copy of the code counts, in Ray's workers too.
cd "$RUN/code"
export PYTHONPATH="$RUN/code"

# Nobody who does not know this can join our Ray or give it work, whoever else is on the nodes.
RAY_AUTH_TOKEN=$("$PYTHON" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
unset RAY_ADDRESS # that of another Ray, if the submitting shell had one

# srun has not passed --cpus-per-task on since 22.05; without this each node gives Ray one core.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# When the time is up, queue again and go on from there; SLURM ends all that this job still does.
trap 'exec "$PYTHON" -m cluster.ray.on_slurm requeue "$RUN"' USR1

# A part of Ray on each node: the head on the first, which this script runs on as well. None takes
# the others along, whether its node dies or it fails.
srun --no-kill --kill-on-bad-exit=0 "$PYTHON" -m cluster.ray.on_slurm node "$RUN" &
NODES=$!

# The farm starts as soon as the head answers, and grows with every node that joins.
farm() {
    RAY_ADDRESS=$("$PYTHON" -m cluster.ray.on_slurm address "$RUN") || return
    export RAY_ADDRESS
    "$PYTHON" -m evalfarm watch --run "$RUN"
}

# In the background, for bash runs no trap while it waits for a command in the foreground. Until
# either ends, as no farm goes on without Ray; `wait -n` would overlook what has ended before it.
farm &
FARM=$!
while kill -0 "$FARM" 2>/dev/null && kill -0 "$NODES" 2>/dev/null; do
    sleep 1 &
    wait $!
done
CODE=0
if kill -0 "$FARM" 2>/dev/null; then ENDED=$NODES; else ENDED=$FARM; fi
wait "$ENDED" || CODE=$?

# 85: SLURM has asked Ray to end, to give the nodes to others: queue again and wait for room.
# Else a farm whose Ray has ended under it does not know why; the head does, and says 75.
case $CODE in
0) ;;
85) exec "$PYTHON" -m cluster.ray.on_slurm requeue "$RUN" ;;
*) "$PYTHON" -m cluster.ray.on_slurm address "$RUN" > /dev/null || CODE=$? ;;
esac

# 75: the machine is to blame. Elsewhere it may go well, but not without end.
[ "$CODE" != 75 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 5 ] ||
    exec "$PYTHON" -m cluster.ray.on_slurm requeue "$RUN"

exit "$CODE" # and SLURM ends the nodes' parts of Ray
