"""What a farm left of a suite, read anywhere: no network is needed and nothing is written.

Commands name a folder (a run, the --out of `score`, or a suite's own folder in one of them) and a
checkpoint in it as FOLDER@STEP or FOLDER@NAME.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.run_folder import RunFolder, read_json
from evalfarm.ledger import Ledger, suite_in
from evalfarm.rows import NO_ROWS, Rows


@dataclass(frozen=True, kw_only=True)
class Record:
    """A suite's results and ledger."""

    folder: Path
    results: dict[str, Any]
    ledger: Ledger
    asked: str
    """Suite and digest of all that decides its pictures."""

    def references(self, rows: str) -> Rows:
        """What a metric says of the real pictures."""
        checkpoint = self.results.get("references_checkpoint")
        return self.ledger.rows(checkpoint, rows) if checkpoint else NO_ROWS

    def of_real_kind(self, rows: Rows) -> Rows:
        """Those of pictures that a distance to the real ones is taken of."""
        return rows.take(~np.isin(rows.prompts, self.results["prompts_without_real"]))

    @property
    def complete_rows(self) -> list[dict[str, Any]]:
        """The results of the checkpoints that are scored whole."""
        return [row for row in self.results["rows"] if row["complete"]]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One checkpoint in a record."""

    record: Record
    row: dict[str, Any]
    """Its results."""
    given: str
    """As the user spelt it."""

    def rows(self, metric_rows: str) -> Rows:
        """What a metric says of its pictures."""
        return self.record.ledger.rows(self.row["checkpoint"], metric_rows)


def labels(sides: Sequence[Scored]) -> list[str]:
    """What to call each in a table: its name, or as it was given where names are the same."""
    names = [str(side.row["name"]) for side in sides]
    return names if len(set(names)) == len(names) else [side.given for side in sides]


def open_record(folder: Path, suite: str | None) -> Record:
    """The record of a suite in a folder; ValueError if there is none, or several to choose from."""
    place = _suite_folder(folder, suite)
    path = place / "ledger.sqlite"
    if not path.is_file():
        raise ValueError(f"{place} holds results but no ledger.sqlite: they cannot be taken apart")
    name, digest = suite_in(path)
    return Record(
        folder=place,
        results=read_json(place / "results.json"),
        ledger=Ledger(path, name, digest, read_only=True),
        asked=f"{name} {digest}",
    )


def find_checkpoint(given: str, suite: str | None) -> Scored:
    """The checkpoint that FOLDER@STEP or FOLDER@NAME means; ValueError says which there are."""
    folder, _, name = given.rpartition("@")
    record = open_record(Path(folder or name), suite)
    names = [row["name"] for row in record.results["rows"]]
    if not folder:
        raise ValueError(
            f"{given} does not say which checkpoint: write {given}@STEP or {given}@NAME; there are "
            f"{', '.join(names)}"
        )
    for row in reversed(record.results["rows"]):  # of an export made anew the latest
        if name == row["name"] or name == str(row["step"]):
            return Scored(record=record, row=row, given=given)
    raise ValueError(f"{folder} has no checkpoint {name!r}: it has {', '.join(names)}")


def suites_below(folder: Path) -> Path:
    """Where the suites' folders of a run lie, or of the --out of `score`."""
    run = RunFolder(folder)
    return run.evaluations if run.recipe.is_file() else folder


def _suite_folder(folder: Path, suite: str | None) -> Path:
    if (folder / "results.json").is_file():
        return folder
    results = sorted(suites_below(folder).glob("*/results.json"))
    found = {path.parent.name: path.parent for path in results}
    if not found:
        raise ValueError(f"{folder} holds no results: name a run folder, or the --out of `score`")
    if suite is None and len(found) > 1:
        raise ValueError(f"{folder} has results of {', '.join(found)}: choose one by --suite")
    if suite is not None and suite not in found:
        raise ValueError(f"{folder} has no results of suite {suite}: it has {', '.join(found)}")
    return found[suite or next(iter(found))]
