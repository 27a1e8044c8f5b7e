"""The files of a checkpoint: a part from every rank, readable by any number of ranks.

    rank-0000.safetensors …   `<kind>/<number>`: the flat fp32 tensors of that rank; kinds: master,
                              exp_avg, exp_avg_sq, ema (8-bit moments: eight_bit.py). In the
                              metadata, under `fragments`, a line for each part of a weight:
                              [weight, offset, numel, number, start]
    manifest.json             step, ranks, the shape of every trained weight, and the history of
                              the losses

A reader finds each weight's parts in the headers and reads just the bytes that it needs. No pickle.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cluster.run_folder import read_manifest
from trainer.eight_bit import dequantized


class Fragment(NamedTuple):
    """Where a part of a weight lies."""

    weight: str
    offset: int
    """Its first element in the flattened weight."""
    numel: int
    flat: int
    """The number of the flat tensor that holds it."""
    start: int
    """Its first element there."""

    @property
    def place(self) -> slice:
        """Its elements in the flat tensor."""
        return slice(self.start, self.start + self.numel)


def part_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:04d}.safetensors"


def save_part(path: Path, tensors: Mapping[str, Tensor], fragments: Iterable[Fragment]) -> None:
    """Write what one rank holds; `tensors` are named `<kind>/<number>`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, {"fragments": json.dumps(list(fragments))})


class _Part(NamedTuple):
    file: Path
    fragment: Fragment


class Checkpoint:
    """A published checkpoint, read by weight, whatever ranks wrote it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = read_manifest(folder)
        self.step = int(self.manifest["step"])
        self.shapes = {name: tuple(shape) for name, shape in self.manifest["shapes"].items()}
        self.history: dict[str, dict[int, float]] = {
            name: {int(step): value for step, value in values.items()}
            for name, values in self.manifest["history"].items()
        }
        self.kinds: set[str] = set()
        self._parts: dict[str, list[_Part]] = defaultdict(list)
        self._open: dict[Path, Any] = {}
        self._names: dict[Path, set[str]] = {}
        self._layouts: dict[Path, dict[int, list[Fragment]]] = {}
        for file in sorted(folder.glob("rank-*.safetensors")):
            self._index(file)

    def read(self, kind: str, wanted: Fragment) -> Tensor:
        """The values of a part of a weight: fp32, 1-D."""
        values = torch.empty(wanted.numel)
        found, end = 0, wanted.offset + wanted.numel
        for file, part in self._parts[wanted.weight]:
            first = max(wanted.offset, part.offset)
            last = min(end, part.offset + part.numel)
            if first < last:
                start = part.start + first - part.offset
                stored = self._stored(file, kind, part.flat, start, last - first)
                values[first - wanted.offset : last - wanted.offset] = stored
                found += last - first
        assert found == wanted.numel, f"{self.folder}: {kind} of {wanted} has gaps"
        return values

    def codes(self, kind: str, fragments: Sequence[Fragment]) -> dict[str, Tensor] | None:
        """The 8-bit codes of a tensor that holds just these fragments (trainer/eight_bit.py).

        None if no rank's tensor was laid out so, or it was not kept in 8 bits.
        """
        for file, held in self._layouts.items():
            for number, there in held.items():
                if _places(there) == _places(fragments):
                    handle, names = self._open[file], self._names[file]
                    if f"{kind}.codes/{number}" not in names:
                        return None
                    parts = ("codes", "absmax")
                    return {part: handle.get_tensor(f"{kind}.{part}/{number}") for part in parts}
        return None

    def _stored(self, file: Path, kind: str, flat: int, start: int, numel: int) -> Tensor:
        handle = self._open[file]
        if f"{kind}/{flat}" in self._names[file]:
            values: Tensor = handle.get_slice(f"{kind}/{flat}")[start : start + numel]
            return values
        codes = handle.get_slice(f"{kind}.codes/{flat}")[start : start + numel]
        absmax, qmap = (handle.get_tensor(f"{kind}.{part}/{flat}") for part in ("absmax", "qmap"))
        return dequantized(codes, absmax, qmap, first=start)

    def weight(self, kind: str, name: str) -> Tensor:
        """A whole weight, fp32, in its shape."""
        shape = self.shapes[name]
        whole = Fragment(name, 0, torch.Size(shape).numel(), 0, 0)
        return self.read(kind, whole).view(shape)

    def weights(self, kind: str) -> dict[str, Tensor]:
        """All trained weights, whole."""
        return {name: self.weight(kind, name) for name in self.shapes}

    def _index(self, file: Path) -> None:
        handle = safe_open(file, "pt")
        self._open[file] = handle
        self._names[file] = set(handle.keys())
        self._layouts[file] = defaultdict(list)
        self.kinds |= {name.partition("/")[0] for name in self._names[file]}
        for line in json.loads(handle.metadata()["fragments"]):
            fragment = Fragment(*line)
            self._parts[fragment.weight].append(_Part(file, fragment))
            self._layouts[file][fragment.flat].append(fragment)


def _places(fragments: Iterable[Fragment]) -> set[tuple[str, int, int, int]]:
    return {(f.weight, f.offset, f.numel, f.start) for f in fragments}
