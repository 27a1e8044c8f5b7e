"""What TensorBoard is shown of results: curves in bands, the recipe, OCR's confidence, pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cluster.config import read_yaml
from cluster.run_folder import read_json
from evalfarm.evaluation import Evaluation
from evalfarm.metrics.base import column_key
from evalfarm.report.confidence import THRESHOLDS, confidence_curve, judged_words
from evalfarm.report.grid import picture_grid
from evalfarm.rows import Picture

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
"""Keys of a recipe that TensorBoard's HPARAMS tab sets beside the numbers, and those of a sweep."""


def draw_layout(writer: SummaryWriter, evaluation: Evaluation) -> None:
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


def draw_recipe(writer: SummaryWriter, evaluation: Evaluation, recipe: Path | None) -> None:
    """The HPARAMS tab, in this run: `add_hparams` would make one more at each start."""
    if recipe is None or not recipe.is_file():
        return
    settings, state = flat_settings(read_yaml(recipe)), recipe.with_name("state.json")
    swept = read_json(state).get("swept", []) if state.is_file() else []
    keys = [column_key(m, column) for m in evaluation.metrics.values() for column in m.columns]
    telling = {key: settings[key] for key in (*TELLING, *swept) if key in settings}
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


def draw_rows(
    writer: SummaryWriter, evaluation: Evaluation, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Values with their intervals, counts, OCR's confidence and pictures of each row."""
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
