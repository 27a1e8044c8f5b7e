"""The farm's actors as Ray is asked for them: how many, on what, and where."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.exit_codes import MachineFault
from evalfarm.config import EvalConfig
from evalfarm.evaluation import GENERATORS, REPORTERS, SCORERS
from evalfarm.farm.generate import Generator
from evalfarm.farm.pool import Pool
from evalfarm.farm.reporter import Reporter
from evalfarm.farm.score import Scorer

log = logging.getLogger(__name__)

ROOM_TIMEOUT_S = 300.0
ROOM_POLL_S = 2.0


def start_pools(config: EvalConfig, folder: Path, boards: Path | None) -> list[Pool]:
    """The pools of a farm; scorers go on with what generators make."""
    cuda = config.device == "cuda"
    scorer_device = "cuda" if config.gpus_per_scorer else "cpu"
    generator = ray.remote(Generator).options(
        num_cpus=1, num_gpus=config.gpus_per_generator if cuda else 0
    )
    scorer = ray.remote(Scorer).options(num_cpus=1, num_gpus=config.gpus_per_scorer)
    # Beside the driver, whose ledgers it reads: SQLite's locks do not cross every network.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reporter = ray.remote(Reporter).options(num_cpus=0, scheduling_strategy=here)

    def pool(name: str, start_actor: Callable[[], Any], most: int) -> Pool:
        return Pool(name, start_actor, most=most, recycle_after=config.recycle_after)

    generators = pool(GENERATORS, lambda: generator.remote(config), config.generators)
    scorers = pool(SCORERS, lambda: scorer.remote(config.networks, scorer_device), config.scorers)
    reporters = pool(REPORTERS, lambda: reporter.remote(config, folder, boards), 1)
    reporters.lets_go = False  # it takes no room, and a new one draws all curves anew
    generators.feeds = scorers
    return [generators, scorers, reporters]


def wait_for_room(config: EvalConfig, where: str) -> None:
    """Return once the cluster has room for one of each; MachineFault if it stays too small."""
    gpus = config.gpus_per_generator if config.device == "cuda" else 0.0
    gpus = max(gpus, config.gpus_per_scorer)
    deadline_s = time.monotonic() + ROOM_TIMEOUT_S
    while True:
        there = ray.cluster_resources()
        if there.get("GPU", 0) >= gpus and there.get("CPU", 0) >= 1:
            return
        lacks = (
            f"the farm asks for {gpus:g} GPUs, Ray on {where} has {there.get('GPU', 0):g}: "
            "lower eval.gpus_per_generator and eval.gpus_per_scorer, or set eval.device to cpu"
        )
        if where == "this machine":
            raise ValueError(lacks)
        if time.monotonic() > deadline_s:
            raise MachineFault(lacks)
        time.sleep(ROOM_POLL_S)
