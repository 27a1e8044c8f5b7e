"""The agent of a node that takes ranks for hung after seconds, where the real one waits minutes."""

import sys
from functools import partial

from cluster import agent
from cluster.hangs.silence import Limits
from cluster.program import run_program

if __name__ == "__main__":
    quick = Limits(first_s=60.0, floor_s=3.0, factor=1.0)
    agent.run_node = partial(agent.run_node, limits=quick)
    sys.exit(run_program(agent.main))
