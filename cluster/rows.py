"""Rows of strangers' lists: CSV, TSV, JSON, JSON lines, Parquet, plain lines."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table by column name; a ValueError names the file and what is wrong there.

    CSV and TSV begin with the names of their columns; a .txt has one column, `text`.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is none of {', '.join(READERS)}")
    try:
        yield from reader(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def open_parquet(path: Path) -> Any:
    """A pyarrow.parquet.ParquetFile; ValueError if it is none."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path} needs pyarrow: pip install pyarrow") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # of a long caption
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file, restval=None, restkey="")


def _tsv(path: Path) -> Iterator[Row]:
    # Quotes are part of the text: PartiPrompts has a prompt that begins with one.
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restkey="")


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _as_row(_parse(line, f"{path} line {number}"), f"{path} line {number}")


def _json(path: Path) -> Iterator[Row]:
    data = _parse(path.read_text(encoding="utf-8-sig"), str(path))
    if isinstance(data, dict):  # AnyText's benchmark
        data = data.get("data_list")
    if not isinstance(data, list):
        raise ValueError(f"{path} must hold a list, or an object with one in data_list")
    for number, item in enumerate(data, 1):
        yield _as_row(item, f"{path} item {number}")


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        yield from ({"text": line.rstrip("\n")} for line in file)


def _parquet(path: Path) -> Iterator[Row]:
    for batch in open_parquet(path).iter_batches():
        yield from batch.to_pylist()


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None


def _as_row(item: Any, where: str) -> Row:
    if isinstance(item, str):
        return {"text": item}
    if not isinstance(item, dict):
        raise ValueError(f"{where} must be an object or a text, got {type(item).__name__}")
    return item


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".txt": _lines,
}
