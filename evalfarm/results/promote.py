"""The best export of a run, copied out of it: whole, checked, and saying why it was chosen."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.run_folder import MANIFEST, RunFolder, publish, read_json, verify
from evalfarm.results.record import Record, open_record
from evalfarm.results.verdict import best_step
from trainer.models.digest import weights_digest


def promote(run: RunFolder, suite: str | None, metric: str, to: Path | None) -> str:
    """Copy the export of the metric's best step; what was done, in one line.

    ValueError where it is not clear which that is, or the place is taken; BrokenFolder if the
    export differs from its manifest.
    """
    record = open_record(run.root, suite)
    path = record.folder / "verdict.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: no export of this run is scored whole yet")
    key, entry = find_metric(read_json(path)["metrics"], metric, path)
    values = {int(step): value for step, value in entry["values"].items()}
    step = best_step(values, higher_is_better=entry["higher_is_better"])
    if step is None:
        raise ValueError(f"{path} has no value of {key} yet: no export is scored whole by it")
    target = to or run.root / f"best-{key.partition('/')[0]}"
    if target.exists():
        raise ValueError(f"{target} is there already: name a new folder by --to")
    _check_scored(run.export(step), step, record)
    reason = {"suite": record.results["suite"], "metric": key, "step": step, "value": values[step]}
    _copy(run.export(step), target, {"run": str(run.root), **reason})
    count = f"of {len(values)} that are scored"
    return f"copied step {step}, the best {count} by {key} ({values[step]:.5g}), to {target}"


def find_metric(metrics: Mapping[str, Any], name: str, path: Path) -> tuple[str, Any]:
    """The entry of a metric, by its key or the part before the slash; ValueError names them."""
    found = [key for key in metrics if name in (key, key.partition("/")[0])]
    if len(found) != 1:
        raise ValueError(
            f"{path} has {'more than one' if found else 'no'} metric {name}: it has "
            f"{', '.join(sorted(metrics))}"
        )
    return found[0], metrics[found[0]]


def _check_scored(export: Path, step: int, record: Record) -> None:
    """ValueError unless the export still is what was scored."""
    if not export.is_dir():
        raise ValueError(f"{export} was the best, and is gone: train.keep or somebody removed it")
    digests = [row["checkpoint"] for row in record.complete_rows if row["step"] == step]
    if weights_digest(export) not in digests:
        raise ValueError(f"{export} holds other weights than were scored: score the run again")


def _copy(export: Path, target: Path, promoted: dict[str, Any]) -> None:
    facts = verify(export)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        staging = Path(folder) / "copy"
        shutil.copytree(export, staging)
        (staging / MANIFEST).unlink()
        fingerprints = facts.pop("files")
        publish(staging, target, {**facts, "promoted": promoted}, fingerprints, latest=False)
    verify(target)
