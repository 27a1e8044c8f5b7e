"""The farm's driver: watches for exports, keeps the actors busy, commits what comes back.

It can be killed and started again at any moment: what is left to do follows from the ledger.
"""

import fcntl
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.exit_codes import MachineFault
from cluster.ray_cluster import ray_cluster
from cluster.run_folder import (
    BrokenFolder,
    RunFolder,
    published_steps,
    read_json,
    read_manifest,
    verify,
)
from evalfarm.config import EvalConfig
from evalfarm.evaluation import REPORTERS, Evaluation
from evalfarm.farm.actors import start_pools, wait_for_room
from evalfarm.farm.dispatch import Dispatcher
from evalfarm.farm.pool import Pool
from evalfarm.farm.progress import Progress, Speed, progress_display, write_progress
from evalfarm.farm.work_log import WorkLog
from evalfarm.ledger import Checkpoint
from evalfarm.suite_files import load_suite
from evalfarm.work import Generate, Report, Result, Unit
from trainer.models.named import NamedModel

log = logging.getLogger(__name__)

WAIT_S = 1.0
PROGRESS_EVERY_S = 0.5
BASE_NAME = "base"


@dataclass(eq=False)
class Plan:
    """What is to be done for a checkpoint, or for the real pictures, by one suite."""

    checkpoint: Checkpoint
    expected: int
    """Pictures."""
    to_make: int = 0
    to_score: int = 0
    told: bool = False
    """Whether its results have been said."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to make or to score."""
        return self.to_make == self.to_score == 0

    def add(self, unit: Unit, sign: int) -> None:
        """Count a unit that is to be done, or with -1 one that is done."""
        if isinstance(unit, Generate):
            self.to_make += sign * len(unit)
        else:
            self.to_score += sign * len(unit)


class Farm:
    """Some suites over some checkpoints, on Ray."""

    def __init__(
        self, config: EvalConfig, folder: Path, pools: Sequence[Pool], *, retry_failed: bool = False
    ) -> None:
        """Results go below `folder`; `retry_failed` does again what has failed before."""
        suites = [load_suite(name, config.suite_data) for name in config.suites]
        self.evaluations = {
            suite.name: Evaluation(suite, config, folder / suite.name) for suite in suites
        }
        if retry_failed:
            for suite_name, evaluation in self.evaluations.items():
                forgotten = evaluation.ledger.forget_failures()
                log.info("%s: %d rows that failed are done again", suite_name, forgotten)
        self.log = WorkLog(folder / "work.jsonl")
        self.dispatcher = Dispatcher(
            pools,
            self.log,
            max_tries=config.max_tries,
            timeout_s=config.unit_timeout_s,
        )
        self._plans: dict[tuple[str, str], Plan] = {}
        self._speeds = {suite.name: Speed() for suite in suites}
        self._reports: dict[str, list[Plan]] = {}
        """By suite whose report is waited for, what it is to tell."""
        self._unsaid: set[str] = set()
        """Suites whose progress is not written yet."""
        self._said_s = 0.0
        for evaluation in self.evaluations.values():
            self._add_references(evaluation)

    def add(self, path: str | Path, step: int | None, name: str) -> None:
        """Score a set of weights by every suite; `path` as in `find_named`."""
        for suite, evaluation in self.evaluations.items():
            checkpoint = evaluation.add_checkpoint(path, step, name)
            owner = (suite, checkpoint.checkpoint)
            if owner in self._plans:  # the same weights under another name
                self._plans[owner].told = False
            else:
                self._plans[owner] = Plan(checkpoint, len(evaluation.suite.items()))
                self._submit(evaluation.units(checkpoint))
            self._unsaid.add(suite)
            self._conclude(suite)
        self._say()

    @property
    def idle(self) -> bool:
        """Whether all that was added is scored and told."""
        return self.dispatcher.idle

    def work(self, wait_s: float = WAIT_S) -> None:
        """Hand out work and commit what comes back within `wait_s` seconds."""
        for unit, result in self.dispatcher.finished(wait_s):
            if isinstance(unit, Report):
                self._tell(unit.suite, result)
                continue
            evaluation = self.evaluations[unit.suite]
            evaluation.ledger.commit(result.pictures, result.scores, result.worker)
            self._plans[unit.suite, unit.checkpoint].add(unit, -1)
            if isinstance(unit, Generate):
                self._submit(evaluation.follow_up(unit))
            else:
                self._speeds[unit.suite].add(len(unit))
            self._unsaid.add(unit.suite)
            self._conclude(unit.suite)
        self._say()

    def check_told(self) -> None:
        """MachineFault if there is no report of what was scored."""
        untold = [suite for (suite, _), plan in self._plans.items() if not plan.told]
        if untold:
            raise MachineFault(f"{untold[0]} is scored, but its report could not be made")

    def close(self) -> None:
        """Close ledgers and the log."""
        for evaluation in self.evaluations.values():
            evaluation.close()
        self.log.close()

    def _add_references(self, evaluation: Evaluation) -> None:
        references = evaluation.references
        if references:
            suite = evaluation.suite.name
            pictures = len(evaluation.ledger.pictures(references.checkpoint))
            self._plans[suite, references.checkpoint] = Plan(references, pictures, told=True)
            self._submit(evaluation.reference_units())

    def _submit(self, units: Iterable[tuple[str, Unit]]) -> None:
        for pool, unit in units:
            assert not isinstance(unit, Report)
            plan = self._plans[unit.suite, unit.checkpoint]
            plan.add(unit, 1)
            self.dispatcher.submit(pool, unit, rank=_rank(plan))

    def _conclude(self, suite: str) -> None:
        """Have the results told once nothing is left to do for a checkpoint and the references."""
        untold = self._untold(suite)
        if untold and suite not in self._reports:
            self._reports[suite] = untold
            self.dispatcher.submit(REPORTERS, Report(suite=suite))

    def _untold(self, suite: str) -> list[Plan]:
        plans = self._plans_of(suite)
        if not all(plan.is_done for plan in plans if _is_real(plan)):
            return []
        return [plan for plan in plans if plan.is_done and not plan.told]

    def _tell(self, suite: str, result: Result) -> None:
        asked = self._reports.pop(suite)
        if result.error:
            log.error("%s: no report: %s", suite, result.error)
        results = result.results or {"columns": [], "rows": []}
        for row in results["rows"]:
            plan = self._plans.get((suite, row["checkpoint"]))
            if plan and row["complete"] and not plan.told:
                plan.told = True
                log.info("%s: %s", suite, _line(results["columns"], row))
        if any(plan not in asked for plan in self._untold(suite)):
            self._conclude(suite)  # what became whole while this report was being made

    def _say(self) -> None:
        """Write how far each suite is that has got on, not more often than can be read."""
        now_s = time.monotonic()
        if self._unsaid and (self.idle or now_s - self._said_s > PROGRESS_EVERY_S):
            for suite in self._unsaid:
                self._write_progress(suite)
            self._unsaid.clear()
            self._said_s = now_s

    def _write_progress(self, suite: str) -> None:
        plans = [plan for plan in self._plans_of(suite) if not _is_real(plan)]
        progress: list[Progress] = [
            {
                "name": plan.checkpoint.name,
                "expected": plan.expected,
                "made": plan.expected - plan.to_make,
                "scored": plan.expected - plan.to_make - plan.to_score,
            }
            for plan in plans
        ]
        write_progress(self.evaluations[suite].folder, progress, self._speeds[suite])

    def _plans_of(self, suite: str) -> list[Plan]:
        return [plan for owner, plan in self._plans.items() if owner[0] == suite]


def watch(config: EvalConfig, run: RunFolder, *, retry_failed: bool = False) -> None:
    """Score the exports of a run as they are published, until the last one is scored."""
    farm_here = _farm(config, run.evaluations, run.tensorboard, retry_failed)
    with farm_here as farm, progress_display(run.evaluations) as show:
        known: set[int] = set()
        while True:
            ended = _has_ended(run)
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


def _rank(plan: Plan) -> int:
    """The least goes first: real pictures, without which nothing is told; then the newest step."""
    return -sys.maxsize if _is_real(plan) else -(plan.checkpoint.step or 0)


def _is_real(plan: Plan) -> bool:
    return plan.checkpoint.kind == "references"


def _line(columns: list[dict[str, Any]], row: dict[str, Any]) -> str:
    numbers = [
        f"{column['title']} {row['values'][column['key']]:.{column['decimals']}f}"
        for column in columns
        if column["headline"] and column["key"] in row["values"]
    ]
    return f"{row['name']}: {', '.join(numbers)}, n {row['n_scored']} of {row['n_expected']}"
