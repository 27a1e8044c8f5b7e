"""Results in TensorBoard, on the training's step axis: a projection of the ledger, no record.

TensorBoard drops what stands at a later step when an earlier one arrives, or draws a line that runs
backwards. So event files come in generations. In order, a step is one more file. What is late or
scored anew, and every start of the farm, makes a generation from the whole ledger; its first event
says that all before it is void, which both of TensorBoard's loaders heed, also one that has been
open all along. The generation before stays until the next: a loader may still be reading it.

A point's wall time is that of its pictures, so that it does not move when it is drawn again.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from evalfarm.evaluation import Evaluation
from evalfarm.report.drawing import draw_layout, draw_recipe, draw_rows

EVENTS = "events.out.tfevents"
GENERATION = "generation-"
WHOLE = ".next"
"""A name that loaders pass over."""
VOID_FROM_STEP = 0


class Board:
    """One suite's curves and grids."""

    def __init__(self, folder: Path, recipe: Path | None = None) -> None:
        """Event files go into `folder`; `recipe` is the run's, for the HPARAMS tab."""
        self.folder = folder
        self.recipe = recipe
        self._drawn: dict[int, str] = {}
        """By step, what was drawn."""
        self._current = 0
        """The number of the generation."""

    def draw(self, evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> None:
        """Show these rows of the results, and no others; those without a step have no place."""
        by_step = {row["step"]: row for row in rows if row["step"] is not None}
        states = {step: json.dumps(by_step[step], sort_keys=True) for step in sorted(by_step)}
        new = [step for step in states if step not in self._drawn]
        in_order = self._drawn and all(step > max(self._drawn) for step in new)
        if in_order and all(states.get(step) == state for step, state in self._drawn.items()):
            if new:
                with self._events(evaluation) as writer:
                    draw_rows(writer, evaluation, [by_step[step] for step in new])
        else:
            self._start_generation(evaluation, [by_step[step] for step in states])
        self._drawn = states

    def _start_generation(self, evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> None:
        generations = {path: _generation(path) for path in self.folder.glob(f"{EVENTS}.*")}
        before = max(generations.values(), default=0)
        self._current = before + 1
        with self._events(evaluation, purge_step=VOID_FROM_STEP) as writer:
            draw_layout(writer, evaluation)
            draw_recipe(writer, evaluation, self.recipe)
            draw_rows(writer, evaluation, rows)
        for path, generation in generations.items():
            if generation < before:
                path.unlink()

    @contextmanager
    def _events(
        self, evaluation: Evaluation, purge_step: int | None = None
    ) -> Iterator[SummaryWriter]:
        """A writer of one more event file, which appears in the folder when it is whole."""
        staging = evaluation.folder / ".board.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        with SummaryWriter(staging, purge_step=purge_step) as writer:
            yield writer
        (written,) = staging.iterdir()
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self.folder / WHOLE  # moved first: the suite's folder may be on another disk
        shutil.move(written, whole)
        whole.rename(self.folder / self._next_name())
        staging.rmdir()

    def _next_name(self) -> str:
        """After all that are there: loaders read files by name."""
        times = [int(path.name.split(".")[3]) for path in self.folder.glob(f"{EVENTS}.*")]
        number = max([int(time.time()), *(time_s + 1 for time_s in times)])
        return f"{EVENTS}.{number:010d}.{GENERATION}{self._current}"


def _generation(path: Path) -> int:
    """The number of a file's generation; 0 for one that somebody else wrote."""
    last = path.name.rpartition(".")[2]
    return int(last.removeprefix(GENERATION)) if last.startswith(GENERATION) else 0
