"""The actor that sums up: results, report and curves, from the ledger, beside the driver."""

from pathlib import Path

from cluster.run_folder import RunFolder
from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.report.blocks import write_block_grids
from evalfarm.report.board import Board
from evalfarm.report.report import write_reports
from evalfarm.suite_files import load_suite
from evalfarm.work import Report, Result


class Reporter:
    """Makes what people look at. One per farm, beside the ledgers: a projection has one writer."""

    def __init__(self, config: EvalConfig, folder: Path, boards: Path | None) -> None:
        self.config = config
        self.folder = folder
        self.boards = boards
        self._evaluations: dict[str, Evaluation] = {}
        self._drawn: dict[str, Board] = {}

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Report) -> Result:
        """Write a suite's results, report and curves."""
        evaluation = self._evaluation(unit.suite)
        results = write_reports(evaluation)
        done = [row for row in results["rows"] if row["complete"]]
        if self.boards:
            if unit.suite not in self._drawn:
                recipe = RunFolder(self.boards.parent).recipe
                self._drawn[unit.suite] = Board(self.boards / f"eval-{unit.suite}", recipe)
            self._drawn[unit.suite].draw(evaluation, done)
        write_block_grids(evaluation, [row["checkpoint"] for row in done])
        return Result(results=results)

    def _evaluation(self, name: str) -> Evaluation:
        if not self._evaluations:
            for given in self.config.suites:
                suite = load_suite(given, self.config.suite_data)
                self._evaluations[suite.name] = Evaluation(
                    suite, self.config, self.folder / suite.name, read_only=True
                )
        return self._evaluations[name]
