"""What tests of lost nodes run as a rank: steps, and publishes them, without torch."""

import argparse
import os
import time
from itertools import count
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.fence import Fence
from cluster.hangs.heartbeat import Heartbeat
from cluster.hangs.stacks import answer_with_stacks
from cluster.program import run_program
from cluster.run_folder import RunFolder, publish, published_steps, staging_folder

STEP_S = 0.1
FAULT_AT = 15


def ecc() -> None:
    """A GPU's memory is broken, in the words of torch."""
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")


def hang() -> None:
    """A call that does not return."""
    time.sleep(3600)


FAULTS = {"none": lambda: None, "ecc": ecc, "hang": hang}


def main() -> int:
    """One rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    about = "of the last rank, in the first attempt"
    parser.add_argument("--fault", choices=FAULTS, default="none", help=about)
    arguments = parser.parse_args()
    answer_with_stacks()
    run, attempt = RunFolder(arguments.run), arguments.attempt
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    beat = Heartbeat(run.attempt(attempt).heartbeat(rank), rank)
    done = max((step for step, _ in published_steps(run.checkpoints)), default=0)
    for step in count(done + 1):
        beat("train", step=step)
        if (step, attempt, rank) == (FAULT_AT, 0, ranks - 1):
            FAULTS[arguments.fault]()
        time.sleep(STEP_S)
        if rank == 0:
            publish_step(run, attempt, step)
        if run.stop_request.exists():
            return ExitCode.STOPPED
    raise AssertionError("there is always another step")


def publish_step(run: RunFolder, attempt: int, step: int) -> None:
    """A checkpoint of one small file."""
    final = run.checkpoint(step)
    staging = staging_folder(final, attempt)
    staging.mkdir(parents=True)
    (staging / "weights").write_text(str(step))
    facts = {"attempt": attempt, "time": time.time()}
    publish(staging, final, facts, permit=Fence(run, attempt).check)


if __name__ == "__main__":
    raise SystemExit(run_program(main))
