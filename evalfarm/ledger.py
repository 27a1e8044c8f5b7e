"""The farm's record of truth: one SQLite file per suite, written by one process.

A unit of work is one transaction, and every row has a key: what is done twice is written once. A
picture or score that failed is a row that says why, so that nothing is ever missing unseen.
"""

import errno
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evalfarm.rows import NO_ROWS, Checkpoint, Picture, Rows, Score, WorkerFacts

SCHEMA = """
-- What the rows belong to: `schema`, of this table's shape; `suite`, its name and digest.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
-- One row per process that made or scored pictures.
CREATE TABLE IF NOT EXISTS workers (
    worker TEXT PRIMARY KEY,         -- host, kind and start
    device TEXT NOT NULL,            -- cpu, or the GPU's name
    versions TEXT NOT NULL           -- JSON: package -> version
);
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
    note TEXT,                       -- what is odd about it, such as being all of one colour
    error TEXT,
    worker TEXT,
    seconds REAL,                    -- of its worker's time
    PRIMARY KEY (checkpoint, prompt, sample)
);
-- One row per picture and metric.
CREATE TABLE IF NOT EXISTS scores (
    checkpoint TEXT NOT NULL,
    prompt INTEGER NOT NULL,
    sample INTEGER NOT NULL,
    metric TEXT NOT NULL,            -- with its variant; several metrics may share rows
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
SCHEMA_VERSION = "2"
BUSY_TIMEOUT_S = 60.0
MOST = 2**63 - 1  # of SQLite's integers
STORAGE_CODES = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EPERM,
}


class Ledger:
    """An open ledger. One process writes; others may read at the same time."""

    def __init__(self, path: Path, suite: str, digest: str, *, read_only: bool = False) -> None:
        """Open the file, or make it unless it is only to be read.

        ValueError if it holds what does not compare; OSError where it cannot be opened.
        """
        self._path = path
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        # The default journal, not WAL: run folders lie on network file systems.
        with _storage_errors(self._path):
            self._db = _connect(path, "ro" if read_only else "rwc")
            self._start(path, suite, digest)

    def _start(self, path: Path, suite: str, digest: str) -> None:
        wanted = {"schema": SCHEMA_VERSION, "suite": f"{suite} {digest}"}
        fresh = not self._db.execute("SELECT name FROM sqlite_master").fetchall()
        if fresh:
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            for item in wanted.items():
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", item)
        there = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        if there == wanted:
            return
        self._db.close()
        if there.get("schema") != SCHEMA_VERSION:
            raise ValueError(
                f"{path} was written by another version of Letterpress: move {path.parent} away "
                "to score anew"
            )
        raise ValueError(
            f"{path} holds the scores of another suite ({there['suite'][:24]}…, not {suite} "
            f"{digest[:8]}…): they do not compare; move {path.parent} away to score anew"
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Record a set of weights; the same one again changes nothing."""
        self._insert("checkpoints", [astuple(checkpoint)])

    def commit(
        self,
        pictures: Iterable[Picture] = (),
        scores: Iterable[Score] = (),
        worker: WorkerFacts | None = None,
    ) -> None:
        """Record one unit of work, all or nothing; what is there already stays as it is."""
        with _storage_errors(self._path), self._transaction():
            self._insert("workers", [astuple(worker)] if worker else [])
            self._insert("pictures", [astuple(picture) for picture in pictures])
            self._insert("scores", [_score_row(score) for score in scores])

    def forget_failures(self) -> int:
        """Drop the rows of what failed, so that it is tried again; how many there were."""
        with _storage_errors(self._path), self._transaction():
            return sum(
                # The tables' names are our own.
                self._db.execute(f"DELETE FROM {table} WHERE status = 'failed'").rowcount
                for table in ("pictures", "scores")
            )

    def checkpoints(self, kind: str) -> list[Checkpoint]:
        """All weights, or all real pictures, by step and name; of equal ones the latest last."""
        rows = self._db.execute(
            "SELECT * FROM checkpoints WHERE kind = ? ORDER BY step, name, rowid", (kind,)
        )
        return [Checkpoint(**_named(Checkpoint, row)) for row in rows]

    def pictures(self, checkpoint: str, first: int = 0, last: int = MOST) -> list[Picture]:
        """The pictures of a checkpoint in the order of the suite; those of some prompts."""
        rows = self._db.execute(
            "SELECT * FROM pictures WHERE checkpoint = ? AND prompt BETWEEN ? AND ?"
            " ORDER BY prompt, sample",
            (checkpoint, first, last),
        )
        return [Picture(**_named(Picture, row)) for row in rows]

    def scores(self, checkpoint: str) -> list[Score]:
        """The scores of a checkpoint, in the order of the suite."""
        rows = self._db.execute(
            "SELECT * FROM scores WHERE checkpoint = ? ORDER BY prompt, sample, metric",
            (checkpoint,),
        )
        return [_score(row) for row in rows]

    def looks(self, checkpoint: str) -> list[Score]:
        """As `scores`, without their features, which are large."""
        names = ["NULL" if f.name == "features" else f.name for f in fields(Score)]
        rows = self._db.execute(
            f"SELECT {', '.join(names)} FROM scores WHERE checkpoint = ?"
            " ORDER BY prompt, sample, metric",
            (checkpoint,),
        )
        return [_score(row) for row in rows]

    def workers(self) -> list[WorkerFacts]:
        """Who made and scored the pictures."""
        rows = self._db.execute("SELECT * FROM workers ORDER BY worker")
        return [WorkerFacts(**_named(WorkerFacts, row)) for row in rows]

    def scored(self, checkpoint: str) -> Iterator[tuple[int, int, str, str]]:
        """Prompt, sample, metric and status of every score of a checkpoint."""
        yield from self._db.execute(
            "SELECT prompt, sample, metric, status FROM scores WHERE checkpoint = ?", (checkpoint,)
        )

    def errors(self, checkpoint: str) -> list[str]:
        """What went wrong with a checkpoint's pictures, each kind once."""
        tables = ("pictures", "scores")  # our own names
        select = "SELECT error FROM {} WHERE checkpoint = ?1 AND error IS NOT NULL"
        both = " UNION ".join(select.format(table) for table in tables)
        return [error for (error,) in self._db.execute(f"{both} ORDER BY error", (checkpoint,))]

    def rows(self, checkpoint: str, metric: str) -> Rows:
        """What a metric says of a checkpoint's pictures, of those that it could score."""
        found = self._db.execute(
            "SELECT prompt, sample, numbers, features FROM scores WHERE checkpoint = ?"
            " AND metric = ? AND status = 'ok' ORDER BY prompt, sample",
            (checkpoint, metric),
        ).fetchall()
        if not found:
            return NO_ROWS
        prompts, samples, numbers, features = zip(*found, strict=True)
        parsed = [json.loads(text) for text in numbers]
        blobs = [np.frombuffer(blob, "<f4") for blob in features if blob is not None]
        return Rows(
            prompts=np.array(prompts, np.int64),
            samples=np.array(samples, np.int64),
            numbers={name: np.array([row[name] for row in parsed]) for name in parsed[0]},
            features=np.stack(blobs) if blobs else None,
        )

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
            if self._db.in_transaction:  # a full disk has rolled it back already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def suite_in(path: Path) -> tuple[str, str]:
    """Name and digest of the suite whose scores a ledger holds."""
    with _storage_errors(path), closing(_connect(path, "ro")) as database:
        (asked,) = database.execute("SELECT value FROM meta WHERE key = 'suite'").fetchone()
    name, _, digest = asked.partition(" ")
    return name, digest


def _connect(path: Path, mode: Literal["ro", "rwc"]) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """What SQLite says of a disk, as any other file would say it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        number = STORAGE_CODES.get(error.sqlite_errorcode & 0xFF)
        if number is None:
            raise
        raise OSError(number, str(error), str(path)) from error


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
