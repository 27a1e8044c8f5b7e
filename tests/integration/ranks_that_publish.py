"""What tests of lost nodes run as a rank: publishes as a trainer does, until asked to stop."""

import argparse
import time
from itertools import count
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.fence import Fence
from cluster.program import run_program
from cluster.run_folder import RunFolder, publish, published_steps, staging_folder


def main() -> int:
    """One rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    done = max((step for step, _ in published_steps(run.checkpoints)), default=0)
    for step in count(done + 1):
        final = run.checkpoint(step)
        staging = staging_folder(final, arguments.attempt)
        staging.mkdir(parents=True)
        (staging / "weights").write_text(str(step))
        facts = {"attempt": arguments.attempt, "time": time.time()}
        publish(staging, final, facts, permit=Fence(run, arguments.attempt).check)
        if run.stop_request.exists():
            return ExitCode.STOPPED
        time.sleep(0.1)
    raise AssertionError("there is always another step")


if __name__ == "__main__":
    raise SystemExit(run_program(main))
