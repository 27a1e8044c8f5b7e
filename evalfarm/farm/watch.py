"""A farm over a run's exports while they come, or over any models: until all is scored."""

import fcntl
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from cluster.ray.session import ray_cluster
from cluster.run_folder import (
    BrokenFolder,
    RunFolder,
    published_steps,
    read_json,
    read_manifest,
    verify,
)
from cluster.slurm.run_job import how_it_was_lost
from evalfarm.config import EvalConfig
from evalfarm.farm.actors import start_pools, wait_for_room
from evalfarm.farm.driver import Farm
from evalfarm.farm.progress import progress_display
from trainer.models.named import NamedModel

log = logging.getLogger(__name__)

BASE_NAME = "base"


def watch(config: EvalConfig, run: RunFolder, *, retry_failed: bool = False) -> None:
    """Score the exports of a run as they are published, until no further one will come."""
    farm_here = _farm(config, run.evaluations, run.tensorboard, retry_failed)
    with farm_here as farm, progress_display(run.evaluations) as show:
        known: set[int] = set()
        while True:
            ended = _has_ended(run) or (farm.idle and _was_lost(run))
            for step, export in published_steps(run.exports):
                if step not in known:
                    known.add(step)
                    _add_export(farm, step, export)
            if ended and farm.idle:
                return farm.check_told()
            farm.work()
            show()


def score(
    config: EvalConfig, models: Sequence[NamedModel], out: Path, *, retry_failed: bool = False
) -> list[dict[str, Any]]:
    """Score any models, not only a run's exports; the results of each suite."""
    names = [model.name for model in models]
    farm_here = _farm(config, out, None, retry_failed)
    with farm_here as farm, progress_display(out) as show:
        for model in models:
            name = model.name if names.count(model.name) == 1 else model.path
            farm.add(model.path, step=None, name=name)
        while not farm.idle:
            farm.work()
            show()
        farm.check_told()
        return [read_json(out / suite / "results.json") for suite in farm.evaluations]


@contextmanager
def _farm(
    config: EvalConfig, folder: Path, boards: Path | None, retry_failed: bool
) -> Iterator[Farm]:
    with ExitStack() as stack:
        stack.enter_context(_only_farm(folder))
        cpus = config.generators + config.scorers
        where = stack.enter_context(ray_cluster(cpus=cpus, gpus=torch.cuda.device_count()))
        wait_for_room(config, where)
        log.info("Ray on %s", where)
        pools = start_pools(config, folder, boards)
        farm = Farm(config, folder, pools, retry_failed=retry_failed)
        stack.callback(farm.close)
        yield farm


@contextmanager
def _only_farm(folder: Path) -> Iterator[None]:
    """ValueError if another farm works here: each would do the other's work again."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "farm.lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another farm works on {folder}: `python -m evalfarm status` says how far it is"
            ) from None
        yield


def _add_export(farm: Farm, step: int, export: Path) -> None:
    try:
        verify(export)
    except BrokenFolder as error:
        log.error("refused an export: %s", error)
        return
    farm.add(export, step, BASE_NAME if step == 0 else f"step {step}")


def _has_ended(run: RunFolder) -> bool:
    """Whether no further export will come: the last is there, or the launcher says so."""
    steps = published_steps(run.exports)
    if steps and read_manifest(steps[-1][1]).get("final"):
        return True
    return run.state.exists() and bool(read_json(run.state).get("outcome"))


def _was_lost(run: RunFolder) -> bool:
    """Whether SLURM has ended the training without a word of its own, as by `scancel`."""
    lost = how_it_was_lost(run)
    if lost:
        log.warning("%s: no further export will come; `letterpress resume` goes on", lost)
    return lost is not None
