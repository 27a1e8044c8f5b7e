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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cluster.config import read_yaml
from evalfarm.confidence import THRESHOLDS, confidence_curve, judged_words
from evalfarm.evaluation import Evaluation
from evalfarm.grid import picture_grid
from evalfarm.ledger import Picture
from evalfarm.metrics.base import column_key

EVENTS = "events.out.tfevents"
GENERATION = "generation-"
VOID_FROM_STEP = 0
TELLING = (
    "train.model",
    "train.global_batch",
    "train.steps",
    "train.seed",
    "train.optim.lr",
    "train.optim.schedule",
    "train.lora.rank",
    "train.objective.prediction",
)
"""Keys of a recipe that TensorBoard's HPARAMS tab sets beside the numbers."""


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
                    _draw_rows(writer, evaluation, [by_step[step] for step in new])
        else:
            self._start_generation(evaluation, [by_step[step] for step in states])
        self._drawn = states

    def close(self) -> None:
        """Nothing is left open between two drawings."""

    def _start_generation(self, evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> None:
        generations = {path: _generation(path) for path in self.folder.glob(f"{EVENTS}.*")}
        before = max(generations.values(), default=0)
        self._current = before + 1
        with self._events(evaluation, purge_step=VOID_FROM_STEP) as writer:
            _draw_layout(writer, evaluation)
            _draw_recipe(writer, evaluation, self.recipe)
            _draw_rows(writer, evaluation, rows)
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
        written.rename(self.folder / self._next_name())
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


def _draw_layout(writer: SummaryWriter, evaluation: Evaluation) -> None:
    """The Custom Scalars tab: each value in the band of its interval."""
    charts = {
        f"{column.title} {'↑' if column.higher_is_better else '↓'}": (
            "Margin",
            list(_tags(column_key(metric, column))),
        )
        for metric in evaluation.metrics.values()
        for column in metric.columns
    }
    n = sum(not evaluation.suite.prompts[item.prompt].filler for item in evaluation.suite.items())
    writer.add_custom_scalars({f"{evaluation.suite.name}, n {n}, 95 % intervals": charts})


def _draw_recipe(writer: SummaryWriter, evaluation: Evaluation, recipe: Path | None) -> None:
    """The HPARAMS tab, in this run: `add_hparams` would make one more at each start."""
    if recipe is None or not recipe.is_file():
        return
    settings = flat_settings(read_yaml(recipe))
    keys = [column_key(m, column) for m in evaluation.metrics.values() for column in m.columns]
    telling = {key: settings[key] for key in TELLING if key in settings}
    file_writer = writer._get_file_writer()
    for summary in hparams(telling, dict.fromkeys(keys, 0.0)):  # the values are the curves' last
        file_writer.add_summary(summary)


def flat_settings(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a recipe by dotted key."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            found |= flat_settings(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            found[f"{prefix}{key}"] = value
    return found


def _draw_rows(
    writer: SummaryWriter, evaluation: Evaluation, rows: Sequence[Mapping[str, Any]]
) -> None:
    for row in rows:
        pictures = evaluation.ledger.pictures(row["checkpoint"])
        at = {"global_step": row["step"], "walltime": _made_at(evaluation.folder, pictures)}
        for key, value in row["values"].items():
            # The margin chart wants all three at each step: no interval is a band of no width.
            band = row["intervals"].get(key, [value, value])
            for tag, number in zip(_tags(key), [value, *band], strict=True):
                writer.add_scalar(tag, number, **at)
        for name in ("expected", "made", "scored"):
            writer.add_scalar(f"pictures/{name}", row[f"n_{name}"], **at)
        _draw_confidence(writer, evaluation, row["checkpoint"], at)
        grid = picture_grid(evaluation.folder, [p for p in pictures if p.sample == 0])
        if grid is not None:
            writer.add_image("pictures", grid, dataformats="HWC", **at)


def _draw_confidence(
    writer: SummaryWriter, evaluation: Evaluation, checkpoint: str, at: Mapping[str, Any]
) -> None:
    """Precision and recall over OCR's confidence, of each metric whose rows hold lines."""
    prompts = evaluation.suite.prompts
    judged: dict[str, list[tuple[float, bool]]] = {}
    asked: Counter[str] = Counter()
    for look in evaluation.ledger.looks(checkpoint):
        if "lines" in look.detail:
            words = prompts[look.prompt].words
            judged.setdefault(look.metric, []).extend(judged_words(look.detail["lines"], words))
            asked[look.metric] += len(words)
    for metric, words_of_metric in judged.items():
        curve = confidence_curve(words_of_metric, asked[metric])
        writer.add_pr_curve_raw(
            f"confidence/{metric}",
            curve.right,
            curve.wrong,
            np.zeros_like(curve.right),  # a word that nobody asked for and nobody read is no word
            curve.missed,
            curve.precision,
            curve.recall,
            num_thresholds=len(THRESHOLDS),
            **at,
        )


def _tags(key: str) -> tuple[str, str, str]:
    """A column's value, and the ends of its interval; those stand apart from the values' cards."""
    return key, f"interval_low/{key}", f"interval_high/{key}"


def _made_at(folder: Path, pictures: Sequence[Picture]) -> float | None:
    """When the first picture was made, in seconds since 1970; None (now) if none was."""
    made = [folder / picture.file for picture in pictures if picture.file]
    return next((path.stat().st_mtime for path in made if path.is_file()), None)
