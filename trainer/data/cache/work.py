"""What there is to encode, in parts that a process encodes one by one."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# A killed process loses at most one part; a file of 512 pixels' latents has 32 MB in bf16.
ROWS_PER_PART = 512

Rows = NDArray[np.int64]
"""Rows 2: the number of a sample, and its side: 1 where it is mirrored."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of what is written."""

    number: int
    rows: Rows
    bytes: int
    """About what the file takes."""

    @property
    def digest(self) -> str:
        """Tells whether another process, or an earlier one, means the same rows."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()


class Encoded(NamedTuple):
    """What came of one forward pass."""

    tensors: dict[str, Tensor]
    """By name, on the CPU, a row for each that could be read, in their order; empty if none."""
    broken: dict[int, str]
    """Why the others could not be read, by their place in the pass."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that goes into one folder."""

    parts: list[Part]
    encode: Callable[[Iterable[Rows]], Iterator[Encoded]]
    """Does forward passes one after the other."""
    rows_per_pass: int
    sides: int
    """1, or 2 where pictures are also mirrored."""
    bearers: NDArray[np.int64]
    """For each sample the one whose row it shares; below 0: it has none."""
    broken: dict[int, str] = field(default_factory=dict)
    """Why samples have none, by their number, as far as it is known beforehand."""

    def passes(self, part: Part) -> list[Rows]:
        """The rows of each forward pass of a part."""
        firsts = range(0, len(part.rows), self.rows_per_pass)
        return [part.rows[first : first + self.rows_per_pass] for first in firsts]


def split_rows(rows: Rows, bytes_per_row: int, first_number: int = 0) -> list[Part]:
    """The rows in parts, numbered from `first_number` on."""
    cut = [rows[first : first + ROWS_PER_PART] for first in range(0, len(rows), ROWS_PER_PART)]
    return [
        Part(number=number, rows=mine, bytes=len(mine) * bytes_per_row)
        for number, mine in enumerate(cut, first_number)
    ]
