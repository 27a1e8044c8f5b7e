"""The real agent with real ranks, all forked from what has imported everything once.

For tests of what ranks compute and leave behind. That the agent starts `python -m trainer`, and how
it ends it, is shown elsewhere.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster import agent
from cluster.ranks.processes import die_with
from cluster.rendezvous import local_node
from cluster.run_folder import RunFolder
from tests.conftest import Ranks
from tests.integration.forkserver import Forked, become, start_forkserver


class ForkedRanks(Ranks):
    """Two ranks under an agent, in the background; nothing is imported again."""

    def _start(self, rank: Sequence[str], ranks: int) -> Forked:
        return fork_agent(self.run, self.number, ranks, rank)


def fork_agent(run: RunFolder, number: int, ranks: int, rank: Sequence[str]) -> Forked:
    """Start the agent of attempt `number` on this machine alone; `rank`: what each rank runs."""
    arguments = (run.root, number, ranks, rank)
    return Forked(start_forkserver().Process(target=_look_after_node, args=arguments))


def _look_after_node(root: Path, number: int, ranks: int, rank: Sequence[str]) -> None:
    agent.start_session = fork_session  # type: ignore[assignment]
    sys.exit(agent.run_node(RunFolder(root), number, local_node(ranks), rank))


def fork_session(command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> Forked:
    """What cluster.ranks.processes.start_session does with `python -m …`, but by a fork."""
    parent = os.getpid()

    def run() -> None:
        os.setsid()
        die_with(parent)
        for number in (signal.SIGTERM, signal.SIGUSR1):  # the agent's handlers are not for ranks
            signal.signal(number, signal.SIG_DFL)
        become(env, log)
        os.chdir(cwd)
        _, _, module, *arguments = command
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return Forked(multiprocessing.get_context("fork").Process(target=run))
