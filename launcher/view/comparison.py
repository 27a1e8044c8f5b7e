"""Runs beside each other: what they differ in, how far they are, and whose checkpoint is best."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.accounts.attempt_facts import read_events
from cluster.config import read_yaml
from cluster.hangs.heartbeat import main_beat
from cluster.run_folder import RunFolder, read_json
from cluster.table import align
from launcher.run_state import run_state
from launcher.runs import short_names
from launcher.view.best_checkpoints import best_checkpoints

MAX_KEYS = 6  # runs of a sweep differ in fewer, others in dozens


def comparison(runs: Sequence[RunFolder], by: str | None = None) -> str:
    """A table of the runs as they were made, and for each suite one of their best checkpoints.

    `by` is the metric that decides: a column's name in results.json, or the part before its slash.
    """
    runs = sorted(runs, key=lambda run: float(read_json(run.state)["created"]))
    named = dict(zip(short_names(runs), runs, strict=True))
    return "\n".join([*_table(named), *best_checkpoints(named, by)])


def _table(runs: Mapping[str, RunFolder]) -> list[str]:
    """A line for each run."""
    settings = [_by_dotted_key(read_yaml(run.recipe)) for run in runs.values()]
    keys = _differing(settings)
    rows = [["run", *keys[:MAX_KEYS], "state", "step", "loss", "validation"]]
    for (name, run), values in zip(runs.items(), settings, strict=True):
        chosen = [str(values.get(key, "–")) for key in keys[:MAX_KEYS]]
        rows.append([name, *chosen, run_state(run), *_progress(run)])
    if all(row[-1] == "–" for row in rows[1:]):  # none of them validates
        rows = [row[:-1] for row in rows]
    if len(keys) <= MAX_KEYS:
        return align(rows)
    return [*align(rows), f"they differ in {len(keys)} keys: the first {MAX_KEYS} are shown"]


def _by_dotted_key(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            found |= _by_dotted_key(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which recipes differ, their names left out."""
    keys = dict.fromkeys(key for values in settings for key in values if key != "name")
    return [key for key in keys if len({str(values.get(key)) for values in settings}) > 1]


def _progress(run: RunFolder) -> list[str]:
    """Step, newest loss, newest validation loss."""
    beat = main_beat(run)
    if beat is None:
        return ["–"] * 3
    loss = f"{beat['loss']:.4f}" if "loss" in beat else "–"
    return [f"{beat.get('step', 0)}/{beat['steps']}", loss, _validation_loss(run)]


def _validation_loss(run: RunFolder) -> str:
    for number in range(run.last_attempt() or 0, -1, -1):
        events = read_events(run.attempt(number))
        if losses := [event["loss"] for event in events if event["event"] == "validation"]:
            return f"{losses[-1]:.5f}"
    return "–"
