"""The farm's driver: watches for exports, keeps the actors busy, commits what comes back.

It can be killed and started again at any moment: what is left to do follows from the ledger.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import torch

from cluster.ray_cluster import ray_cluster
from cluster.run_folder import (
    BrokenFolder,
    RunFolder,
    published_steps,
    read_json,
    read_manifest,
    verify,
    write_json,
)
from evalfarm.board import Board
from evalfarm.config import EvalConfig
from evalfarm.dispatch import Dispatcher, Pool
from evalfarm.evaluation import GENERATORS, SCORERS, Evaluation
from evalfarm.generate import Generator
from evalfarm.ledger import Checkpoint
from evalfarm.report import write_reports
from evalfarm.results import summarize
from evalfarm.score import Scorer
from evalfarm.suite_files import load_suite
from evalfarm.work import Look, Unit
from trainer.models.named import NamedModel

log = logging.getLogger(__name__)

WAIT_S = 1.0
BASE_NAME = "base"


class Farm:
    """Some suites over some checkpoints, on Ray."""

    def __init__(self, config: EvalConfig, folder: Path, boards: Path | None) -> None:
        """Results go below `folder`, curves below `boards`."""
        suites = [load_suite(name, config.suite_data) for name in config.suites]
        self.evaluations = [Evaluation(suite, config, folder / suite.name) for suite in suites]
        self.boards = {
            suite.name: Board(boards / f"eval-{suite.name}") for suite in suites if boards
        }
        self.dispatcher = _start_actors(config)
        self._left: Counter[tuple[str, str]] = Counter()
        self._checkpoints: dict[tuple[str, str], Checkpoint] = {}
        for evaluation in self.evaluations:
            self._submit(evaluation, evaluation.reference_units())

    def add(self, path: str | Path, step: int | None, name: str) -> None:
        """Score a set of weights by every suite; `path` as in `find_named`."""
        for evaluation in self.evaluations:
            checkpoint = evaluation.add_checkpoint(path, step, name)
            self._checkpoints[evaluation.suite.name, checkpoint.checkpoint] = checkpoint
            self._submit(evaluation, evaluation.units(checkpoint))
            self._conclude(evaluation, checkpoint)

    @property
    def idle(self) -> bool:
        """Whether all that was added is scored."""
        return self.dispatcher.idle

    def work(self, wait_s: float = WAIT_S) -> None:
        """Hand out work and commit what comes back within `wait_s` seconds."""
        for unit, result in self.dispatcher.finished(wait_s):
            evaluation = self._evaluation(unit)
            evaluation.ledger.commit(result.pictures, result.scores, result.worker)
            self._submit(evaluation, evaluation.follow_up(unit, result.pictures))
            self._left[_owner(unit)] -= 1
            self._show_progress(evaluation)
            for owner, checkpoint in self._checkpoints.items():
                # What the references were waited for by, all of the suite's checkpoints.
                if owner == _owner(unit) or (owner[0] == unit.suite and _is_real(unit)):
                    self._conclude(evaluation, checkpoint)

    def close(self) -> None:
        """Close ledgers and event files."""
        for evaluation in self.evaluations:
            evaluation.close()
        for board in self.boards.values():
            board.close()

    def _submit(self, evaluation: Evaluation, units: Iterable[tuple[str, Unit]]) -> None:
        for pool, unit in units:
            self._left[_owner(unit)] += 1
            self.dispatcher.submit(pool, unit)

    def _conclude(self, evaluation: Evaluation, checkpoint: Checkpoint) -> None:
        """Publish the results once nothing is left to do for a checkpoint and the references."""
        suite = evaluation.suite.name
        owners = [(suite, checkpoint.checkpoint)]
        if evaluation.references:
            owners.append((suite, evaluation.references.checkpoint))
        if any(self._left[owner] for owner in owners):
            return
        results = write_reports(evaluation)
        done = [row for row in results["rows"] if row["complete"]]
        if suite in self.boards:
            self.boards[suite].draw(evaluation, done)
        row = next(row for row in done if row["checkpoint"] == checkpoint.checkpoint)
        log.info("%s: %s", suite, _line(results["columns"], row))

    def _show_progress(self, evaluation: Evaluation) -> None:
        suite = evaluation.suite.name
        left = {
            checkpoint.name: self._left[owner]
            for owner, checkpoint in self._checkpoints.items()
            if owner[0] == suite and self._left[owner]
        }
        write_json(evaluation.folder / "progress.json", {"time": time.time(), "units_left": left})

    def _evaluation(self, unit: Unit) -> Evaluation:
        return next(e for e in self.evaluations if e.suite.name == unit.suite)


def watch(config: EvalConfig, run: RunFolder) -> None:
    """Score every export of a run as it is published, until the run has ended and all is scored."""
    with _farm(config, run.evaluations, run.tensorboard) as farm:
        seen: set[Path] = set()
        while True:
            ended = _has_ended(run)  # asked first: what is published later is found below
            for step, export in published_steps(run.exports):
                if export not in seen:
                    seen.add(export)
                    _add_export(farm, step, export)
            if ended and farm.idle:
                return
            farm.work()


def score(config: EvalConfig, models: Sequence[NamedModel], out: Path) -> list[dict[str, Any]]:
    """Score any models, not only a run's exports; the results of each suite."""
    names = [model.name for model in models]
    with _farm(config, out, boards=None) as farm:
        for model in models:
            name = model.name if names.count(model.name) == 1 else model.path
            farm.add(model.path, step=None, name=name)
        while not farm.idle:
            farm.work()
        return [summarize(evaluation) for evaluation in farm.evaluations]


@contextmanager
def _farm(config: EvalConfig, folder: Path, boards: Path | None) -> Iterator[Farm]:
    with ExitStack() as stack:
        gpus = config.generators * config.gpus_per_generator if config.device == "cuda" else 0.0
        cpus = config.generators + config.scorers
        where = stack.enter_context(ray_cluster(cpus=cpus, gpus=torch.cuda.device_count()))
        there = ray.cluster_resources()
        if there.get("GPU", 0) < gpus or there.get("CPU", 0) < cpus:
            raise ValueError(
                f"the farm asks for {cpus} CPUs and {gpus:g} GPUs, Ray on {where} has "
                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}: lower eval.generators and "
                "eval.scorers, or set eval.device to cpu"
            )
        log.info("Ray on %s", where)
        farm = Farm(config, folder, boards)
        stack.callback(farm.close)
        yield farm


def _start_actors(config: EvalConfig) -> Dispatcher:
    gpus = config.gpus_per_generator if config.device == "cuda" else 0
    generator = ray.remote(Generator).options(num_cpus=1, num_gpus=gpus)
    scorer = ray.remote(Scorer).options(num_cpus=1, num_gpus=0)

    def start_generator() -> Any:
        return generator.remote(config.device, config.precision)

    def start_scorer() -> Any:
        return scorer.remote(config.networks)

    starters: dict[str, tuple[Callable[[], Any], int]] = {
        GENERATORS: (start_generator, config.generators),
        SCORERS: (start_scorer, config.scorers),
    }
    pools = {name: Pool(start, size) for name, (start, size) in starters.items()}
    return Dispatcher(pools, max_tries=config.max_tries, timeout_s=config.unit_timeout_s)


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


def _owner(unit: Unit) -> tuple[str, str]:
    """What a unit is done for: suite and checkpoint."""
    return unit.suite, unit.checkpoint


def _is_real(unit: Unit) -> bool:
    return isinstance(unit, Look) and unit.real


def _line(columns: list[dict[str, Any]], row: dict[str, Any]) -> str:
    numbers = [
        f"{column['title']} {row['values'][column['key']]:.{column['decimals']}f}"
        for column in columns
        if column["key"] in row["values"]
    ]
    return f"{row['name']}: {', '.join(numbers)}, n {row['n_scored']} of {row['n_expected']}"
