"""What test_chaos.py kills: real ranks without an agent, forked from what has imported everything.

How they are forked is told in tests/integration/forkserver.py.
"""

import os
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from cluster.agent import rank_environment
from cluster.program import run_program
from cluster.rendezvous import local_node, publish_address
from cluster.run_folder import RunFolder
from tests.integration.forkserver import become
from tests.kills import kill_at

RANKS = 2


@dataclass(frozen=True)
class Place:
    """A moment of a rank's life: its operation `number` (from 0) of a kind on the run folder."""

    rank: int
    pattern: str
    number: int
    delay_s: float


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
    run = RunFolder(root)
    environment = {**os.environ, **rank_environment(local_node(RANKS), rank, *address)}
    become(environment, run.attempt(number).rank_log(rank))
    if place and place.rank == rank:
        kill_at(run.root, place.pattern, place.number, place.delay_s)
    sys.argv = ["trainer", "--config", str(run.recipe), "--attempt", str(number)]
    from trainer.__main__ import main

    sys.exit(run_program(main))
