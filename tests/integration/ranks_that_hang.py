"""What test_hangs.py runs as a rank: steps over gloo, until rank 1 hangs in one of these ways."""

import argparse
import time
from itertools import count
from pathlib import Path

from cluster.hangs.heartbeat import Heartbeat
from cluster.hangs.stacks import answer_with_stacks
from cluster.run_folder import RunFolder

HANGS_AT = 30
STEP_S = 0.1  # so that the agent, which looks once a second, sees several


def runs_in_circles() -> None:
    """An endless loop."""
    while True:
        pass


def sleeps() -> None:
    """A call that does not return."""
    time.sleep(3600)


def main() -> None:
    """One rank."""
    answer_with_stacks()
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("how")
    arguments = parser.parse_args()
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    beat = Heartbeat(RunFolder(arguments.run).attempt(0).heartbeat(rank), rank)
    beat("load", step=0)
    for step in count(1):
        if step == HANGS_AT and rank == 1:
            {"runs_in_circles": runs_in_circles, "sleeps": sleeps}[arguments.how]()
        dist.all_reduce(torch.ones(1))
        beat("train", step=step)
        time.sleep(STEP_S)


if __name__ == "__main__":
    main()
