"""The farm's driver: keeps the actors busy, commits what comes back, has results told.

It can be killed and started again at any moment: what is left to do follows from the ledger.
"""

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.exit_codes import MachineFault
from cluster.table import headline
from evalfarm.config import EvalConfig
from evalfarm.evaluation import REPORTERS, Evaluation
from evalfarm.farm.dispatch import Dispatcher
from evalfarm.farm.pool import Pool
from evalfarm.farm.progress import Progress, Speed, write_progress
from evalfarm.farm.work_log import WorkLog
from evalfarm.rows import Checkpoint
from evalfarm.suite_files import load_suite
from evalfarm.work import Generate, Report, Result, Unit

log = logging.getLogger(__name__)

WAIT_S = 1.0
PROGRESS_EVERY_S = 0.5


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
                numbers = headline(row, results["columns"])
                n = f"n {row['n_scored']} of {row['n_expected']}"
                log.info("%s: %s: %s, %s", suite, row["name"], numbers, n)
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


def _rank(plan: Plan) -> int:
    """The least goes first: real pictures, without which nothing is told; then the newest step."""
    return -sys.maxsize if _is_real(plan) else -(plan.checkpoint.step or 0)


def _is_real(plan: Plan) -> bool:
    return plan.checkpoint.kind == "references"
