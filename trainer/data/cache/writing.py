"""Parts on the disk: each whole or not there, and at the end one published folder of them.

A part is written under a temporary name, renamed, and then noted as done. A note tells which rows
it is of: a process that sees other rows there does the part again.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from cluster.run_folder import fingerprint, publish, read_json, write_bytes, write_json
from trainer.data.cache.reading import INDEX, part_file
from trainer.data.cache.work import Encoded, Part, Work


def write_parts(work: Work, parts: Sequence[Part], staging: Path) -> Iterator[int]:
    """Encode and write parts; yields for each row that is done."""
    passes = [work.passes(part) for part in parts]
    encoded = work.encode(chain.from_iterable(passes))
    for part, mine in zip(parts, passes, strict=True):
        done = []
        for rows in mine:
            done.append(next(encoded))
            yield from range(len(rows))
        # Process 0 may have done this part too, and published the folder.
        if staging.is_dir() and not is_done(staging, part):
            _write_part(part, work.rows_per_pass, done, staging)


def _write_part(part: Part, rows_per_pass: int, encoded: Sequence[Encoded], staging: Path) -> None:
    rows = [one.tensors for one in encoded if one.tensors]
    tensors = {name: torch.cat([one[name] for one in rows]) for name in (rows or [{}])[0]}
    path = staging / part_file(part.number)
    if tensors:
        write_bytes(path, save(tensors))
    broken = {
        number * rows_per_pass + place: reason
        for number, one in enumerate(encoded)
        for place, reason in one.broken.items()
    }
    facts = fingerprint(path) if tensors else None
    write_json(_note(staging, part), {"rows": part.digest, "broken": broken, "file": facts})


def _note(folder: Path, part: Part) -> Path:
    return folder / f".{part.number:05d}.json"


def is_done(staging: Path, part: Part) -> bool:
    """Whether some process has written a part."""
    try:
        note = read_json(_note(staging, part))
    except FileNotFoundError:
        return False
    # A caption that one process could read and another could not makes other parts.
    return bool(note["rows"] == part.digest)


def undone(staging: Path, parts: Sequence[Part]) -> list[Part]:
    """Those that no process has written."""
    return [part for part in parts if not is_done(staging, part)]


def publish_parts(work: Work, facts: dict[str, Any], staging: Path, folder: Path) -> None:
    """Make the folder of `facts` of all parts; ValueError if no sample could be read."""
    if undone(staging, work.parts):
        raise ValueError(
            f"{folder.name}: not all processes could read the same captions: run encode again"
        )
    notes = [read_json(_note(staging, part)) for part in work.parts]
    index = _index(work, notes)
    broken = dict(work.broken)
    for part, note in zip(work.parts, notes, strict=True):
        broken |= {int(part.rows[int(n), 0]): reason for n, reason in note["broken"].items()}
    if (index < 0).all():
        raise ValueError(f"no sample can be read: {next(iter(broken.values()))}")
    np.save(staging / INDEX, index)
    files = {INDEX: fingerprint(staging / INDEX)}
    for part, note in zip(work.parts, notes, strict=True):
        if note["file"]:
            files[part_file(part.number)] = note["file"]
    rows = int(sum(len(part.rows) for part in work.parts))
    publish(
        staging, folder, {"made_of": facts, "rows": rows, "broken": broken}, files, latest=False
    )
    for path in folder.glob(".*"):  # notes, and what killed processes left half-written
        path.unlink()


def _index(work: Work, notes: Sequence[dict[str, Any]]) -> NDArray[np.int32]:
    """Samples sides 2: file and row."""
    places = np.full((len(work.bearers), work.sides, 2), -1, np.int32)
    for part, note in zip(work.parts, notes, strict=True):
        rows = np.delete(part.rows, [int(place) for place in note["broken"]], axis=0)
        found = np.stack([np.full(len(rows), part.number), np.arange(len(rows))], axis=1)
        is_sample = rows[:, 0] >= 0  # else the empty caption, which is known where it is
        places[rows[is_sample, 0], rows[is_sample, 1]] = found[is_sample]
    index = places[work.bearers]
    index[work.bearers < 0] = -1
    return index
