"""The farm's record of truth: one SQLite file per suite, written by one process.

A unit of work is one transaction, and every row has a key: what is done twice is written once. A
picture or score that failed is a row that says why, so that nothing is ever missing unseen.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = """
-- What the rows belong to: the suite's name and digest.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
-- One row per set of weights, and one for the real pictures.
CREATE TABLE IF NOT EXISTS checkpoints (
    checkpoint TEXT NOT NULL,        -- digest of the weights, or of the real pictures
    kind TEXT NOT NULL,              -- weights | references
    step INTEGER,                    -- optimizer steps; null: not an export of a run
    name TEXT NOT NULL,              -- equal weights may have several, and share their rows below
    path TEXT NOT NULL,
    PRIMARY KEY (checkpoint, name)
);
-- One row per picture that was asked for.
CREATE TABLE IF NOT EXISTS pictures (
    checkpoint TEXT NOT NULL,
    prompt INTEGER NOT NULL,         -- its number in the suite
    sample INTEGER NOT NULL,         -- its number among the pictures of the prompt
    status TEXT NOT NULL,            -- ok | failed
    file TEXT,                       -- below the suite's folder
    sha256 TEXT,
    error TEXT,
    worker TEXT,
    seconds REAL,
    PRIMARY KEY (checkpoint, prompt, sample)
);
-- One row per picture and metric.
CREATE TABLE IF NOT EXISTS scores (
    checkpoint TEXT NOT NULL,
    prompt INTEGER NOT NULL,
    sample INTEGER NOT NULL,
    metric TEXT NOT NULL,            -- with its variant
    status TEXT NOT NULL,            -- ok | failed
    numbers TEXT,                    -- JSON: column -> value
    detail TEXT,                     -- JSON: what was seen, such as the text that was read
    features BLOB,                   -- float32: what a distance between sets is made of
    error TEXT,
    worker TEXT,
    seconds REAL,
    PRIMARY KEY (checkpoint, prompt, sample, metric)
);
"""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A set of weights that is scored."""

    checkpoint: str
    kind: str
    step: int | None
    name: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was made, or why it was not."""

    checkpoint: str
    prompt: int
    sample: int
    status: str
    file: str | None = None
    sha256: str | None = None
    error: str | None = None
    worker: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a metric says of a picture, or why it says nothing."""

    checkpoint: str
    prompt: int
    sample: int
    metric: str
    status: str
    numbers: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None
    error: str | None = None
    worker: str | None = None
    seconds: float | None = None


class Ledger:
    """An open ledger. One process writes; others may read at the same time."""

    def __init__(self, path: Path, suite: str, digest: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The default journal, not WAL: run folders lie on network file systems.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=60)
        self._db.executescript(SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('suite', ?)", (f"{suite} {digest}",))
        (there,) = self._db.execute("SELECT value FROM meta WHERE key = 'suite'").fetchone()
        if there != f"{suite} {digest}":
            self._db.close()
            raise ValueError(
                f"{path} holds the scores of another suite ({there[:24]}…, not {suite} "
                f"{digest[:8]}…): they do not compare; move {path.parent} away to score anew"
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Record a set of weights; the same one again changes nothing."""
        self._insert("checkpoints", [astuple(checkpoint)])

    def commit(self, pictures: Iterable[Picture] = (), scores: Iterable[Score] = ()) -> None:
        """Record one unit of work, all or nothing; what is there already stays as it is."""
        with self._transaction():
            self._insert("pictures", [astuple(picture) for picture in pictures])
            self._insert("scores", [_score_row(score) for score in scores])

    def checkpoints(self, kind: str) -> list[Checkpoint]:
        """All weights, or all real pictures, by step and name."""
        rows = self._db.execute(
            "SELECT * FROM checkpoints WHERE kind = ? ORDER BY step, name", (kind,)
        )
        return [Checkpoint(**_named(Checkpoint, row)) for row in rows]

    def pictures(self, checkpoint: str) -> list[Picture]:
        """The pictures of a checkpoint, in the order of the suite."""
        rows = self._db.execute(
            "SELECT * FROM pictures WHERE checkpoint = ? ORDER BY prompt, sample", (checkpoint,)
        )
        return [Picture(**_named(Picture, row)) for row in rows]

    def scores(self, checkpoint: str) -> list[Score]:
        """The scores of a checkpoint, in the order of the suite."""
        rows = self._db.execute(
            "SELECT * FROM scores WHERE checkpoint = ? ORDER BY prompt, sample, metric",
            (checkpoint,),
        )
        return [_score(row) for row in rows]

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            # The tables' names are our own; no value is ever part of a statement.
            self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _named(row_type: type[Any], row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip((field.name for field in fields(row_type)), row, strict=True))


def _score_row(score: Score) -> tuple[Any, ...]:
    row = {f.name: getattr(score, f.name) for f in fields(score)}
    row["numbers"] = json.dumps(score.numbers, sort_keys=True)
    row["detail"] = json.dumps(score.detail, sort_keys=True, ensure_ascii=False)
    if score.features is not None:
        row["features"] = score.features.astype("<f4").tobytes()
    return tuple(row.values())


def _score(row: tuple[Any, ...]) -> Score:
    named = _named(Score, row)
    named["numbers"] = json.loads(named["numbers"])
    named["detail"] = json.loads(named["detail"])
    if named["features"] is not None:
        named["features"] = np.frombuffer(named["features"], "<f4")
    return Score(**named)
