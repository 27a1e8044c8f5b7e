#!/bin/bash
# The runs of mini-sweep, a task each; `letterpress submit --sweep` wrote this.

#SBATCH --array=0-3%2
#SBATCH --job-name=mini-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="/shared/my runs/mini-sweep/slurm-%A_%a.out"

set -euo pipefail
SWEEP='/shared/my runs/mini-sweep'
RUNS=(
    lr-1e-4-rank-4
    lr-1e-4-rank-16
    lr-5e-5-rank-4
    lr-5e-5-rank-16
)
RUN="$SWEEP/${RUNS[$SLURM_ARRAY_TASK_ID]}"

# Where this run looks for what its job printed. SLURM has one pattern for all tasks.
OUTPUT="slurm-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.out"
ln -sfn "../$OUTPUT" "$RUN/$OUTPUT"

# The run's own script, as if it had been queued by itself. In place of this shell, for SLURM's
# warning before the time limit comes to this process.
exec bash "$RUN/job.sh"
