"""Latents and text embeddings that were encoded once, read by the number of their sample.

A folder of them is published like every other folder here (cluster/run_folder.py):

    00000.safetensors …     rows of tensors, of one shape in each file
    index.npy               int32, samples sides 2: the file and the row of each sample as it is,
                            and mirrored where there are two sides; -1 where there is none
    manifest.json           what they were made of, and which samples could not be read
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cluster.run_folder import MANIFEST, BrokenFolder, read_manifest
from trainer.config import TrainConfig
from trainer.data.cache.key import folder_of, latents_facts, text_facts
from trainer.models.family import Family

INDEX = "index.npy"
EMPTY_CAPTION = (0, 0)  # its file and row
# Mapped files; Linux gives a process 65 530 maps.
MAX_OPEN_FILES = 256


class Encodings:
    """Random access to a published folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        # Mapped, not read: the ranks of a node share its pages.
        self.index = np.load(folder / INDEX, mmap_mode="r")
        self._files: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # open files do not travel to another process

    def read(self, number: int, side: int = 0) -> dict[str, Tensor]:
        """The tensors of a sample by name, of its mirror image where `side` is 1.

        OSError says why there are none, in the words of who could not read the sample.
        """
        file, row = map(int, self.index[number, side])
        if file < 0:
            broken = self.manifest["broken"]
            raise OSError(broken.get(str(number), "was not encoded"))
        return self.read_row(file, row)

    def read_row(self, file: int, row: int) -> dict[str, Tensor]:
        """The tensors of a row of a file by name."""
        opened = self._open(file)
        return {name: opened.get_slice(name)[row] for name in opened.keys()}  # noqa: SIM118

    def _open(self, file: int) -> Any:
        if file not in self._files:
            if len(self._files) >= MAX_OPEN_FILES:
                del self._files[next(iter(self._files))]
            path = self.folder / part_file(file)
            try:
                self._files[file] = safe_open(path, "pt")
            except SafetensorError as error:
                raise OSError(f"{path} is damaged ({error})") from None
        return self._files[file]


class Cache(NamedTuple):
    """What a run reads in place of pictures and captions."""

    latents: Encodings
    """`posterior`: its mean and deviation."""
    text: Encodings | None
    """The fields of a Conditioning; None where the text encoders are trained."""

    def read_posterior(self, number: int, mirrored: bool) -> Tensor:
        """Mean and deviation of the autoencoder's posterior of a picture: 2 channels h w."""
        return self.latents.read(number, int(mirrored))["posterior"]

    def read_text(self, number: int) -> dict[str, Tensor]:
        """The embeddings of a sample's caption by name; empty where they are not cached."""
        return self.text.read(number) if self.text else {}

    def read_empty_caption(self) -> dict[str, Tensor]:
        """The same of the empty caption."""
        return self.text.read_row(*EMPTY_CAPTION) if self.text else {}


def open_cache(config: TrainConfig, family: Family) -> Cache | None:
    """What `python -m trainer.data encode` wrote for this recipe; None if it asks for none.

    `family` must hold the networks as the model has them. ValueError if something is not there yet.
    """
    if config.data.cache is None:
        return None
    manifest = read_manifest(config.data.path)
    latents = _open(config.data.cache, latents_facts(config.data, family, manifest))
    if config.text_encoder != "frozen":
        return Cache(latents, None)
    return Cache(latents, _open(config.data.cache, text_facts(family, manifest)))


def part_file(number: int) -> str:
    """The name of a file of rows."""
    return f"{number:05d}.safetensors"


def _open(cache: Path, facts: dict[str, Any]) -> Encodings:
    try:
        return Encodings(folder_of(cache, facts))
    except BrokenFolder:
        raise ValueError(
            f"train.data.cache {cache} holds no {facts['kind']} for this recipe"
            f"{_nearest(cache, facts)}: run `python -m trainer.data encode --config RECIPE`"
        ) from None


def _nearest(cache: Path, facts: dict[str, Any]) -> str:
    """In what the nearest folder of this kind differs; empty if there is none."""
    folders = [path.parent for path in cache.glob(f"{facts['kind']}-*/{MANIFEST}")]
    there = [read_manifest(folder)["made_of"] for folder in folders]
    differ = [[name for name in facts if made.get(name) != facts[name]] for made in there]
    fewest: list[str] = min(differ, key=len, default=[])
    return f" (what is there is of another {', '.join(fewest)})" if fewest else ""


def stack_rows(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows as tensors with an axis more, by name."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}
