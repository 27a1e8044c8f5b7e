"""The files of a checkpoint: a part from every rank, readable by any number of ranks.

    rank-0000.safetensors …   `<kind>/<number>`: the flat fp32 tensors of that rank; kinds: master,
                              exp_avg, exp_avg_sq, ema. In the metadata, under `fragments`, a line
                              for each part of a weight: [weight, offset, numel, number, start]
    manifest.json             step, ranks, and the shape of every trained weight

A reader finds each weight's parts in the headers and reads just the bytes that it needs. No pickle.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cluster.run_folder import read_manifest
from trainer.masters import Fragment


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
        self.kinds: set[str] = set()
        self._parts: dict[str, list[_Part]] = defaultdict(list)
        self._open: dict[Path, Any] = {}
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
                stored = self._open[file].get_slice(f"{kind}/{part.flat}")
                values[first - wanted.offset : last - wanted.offset] = stored[
                    start : start + last - first
                ]
                found += last - first
        assert found == wanted.numel, f"{self.folder}: {kind} of {wanted} has gaps"
        return values

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
        self.kinds |= {key.partition("/")[0] for key in handle.keys()}  # noqa: SIM118
        for line in json.loads(handle.metadata()["fragments"]):
            fragment = Fragment(*line)
            self._parts[fragment.weight].append(_Part(file, fragment))
