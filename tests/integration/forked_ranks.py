"""What test_chaos.py kills: real ranks, forked from a process that has imported everything once.

Importing torch, DeepSpeed and diffusers takes a rank many seconds, a fork of what has imported them
none. It is sound because the process that forks has only one thread, which each rank checks.
"""

import multiprocessing
import os
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from cluster.agent import rank_environment
from cluster.program import run_program
from cluster.rendezvous import local_node, publish_address
from cluster.run_folder import RunFolder
from tests.kills import CHECKOUT, kill_at

RANKS = 2
PRELOADED = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}


@dataclass(frozen=True)
class Place:
    """A moment of a rank's life: its operation `number` (from 0) of a kind on the run folder."""

    rank: int
    pattern: str
    number: int
    delay_s: float


def start_forkserver() -> ForkServerContext:
    """Start the process that forks ranks, and wait until it has imported what they need.

    It lives as long as this one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.preloaded"])
    before = dict(os.environ)
    os.environ |= PRELOADED  # the ranks will have its environment
    nothing = context.Process(target=os.getpid)
    nothing.start()
    os.environ.clear()
    os.environ |= before
    nothing.join()
    return context


def fork_ranks(
    context: ForkServerContext, run: RunFolder, place: Place | None = None
) -> list[ForkServerProcess]:
    """Start both ranks of a new attempt; one of them dies when it comes to `place`."""
    number = run.begin_attempt()
    address = publish_address(run.attempt(number), local_node(RANKS), str(run.root))
    ranks = [
        context.Process(target=_run, args=(run.root, number, rank, address, place))
        for rank in range(RANKS)
    ]
    for process in ranks:
        process.start()
    return ranks


def _run(root: Path, number: int, rank: int, address: tuple[str, int], place: Place | None) -> None:
    """What the agent starts: one rank of attempt `number`."""
    threads = list(Path(f"/proc/{os.getppid()}/task").iterdir())
    assert len(threads) == 1, "a process with threads was forked"
    run = RunFolder(root)
    os.environ |= rank_environment(local_node(RANKS), rank, *address)
    log = run.attempt(number).rank_log(rank).open("ab", buffering=0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    if place and place.rank == rank:
        kill_at(run.root, place.pattern, place.number, place.delay_s)
    sys.argv = ["trainer", "--config", str(run.recipe), "--attempt", str(number)]
    from trainer.__main__ import main

    sys.exit(run_program(main))
