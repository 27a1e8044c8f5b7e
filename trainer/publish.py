"""What a run leaves behind: checkpoints to resume from, exports to make pictures with.

All ranks write into a staging folder and hash their own files; when every rank has, rank 0 writes
the manifest and renames. Then, and only then, does the folder exist (cluster/run_folder.py).
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cluster.run_folder import (
    MANIFEST,
    RunFolder,
    files_below,
    fingerprint,
    newest_complete,
    publish,
    read_manifest,
    staging_folder,
    step_of,
    sweep_staging,
)
from trainer.config import TrainConfig
from trainer.distributed import World
from trainer.engine import gathered_weights
from trainer.models.exports import save_export
from trainer.models.family import Family

DEEPSPEED_TAG = "deepspeed"
FULL_DISK_BYTES = 1 << 20  # what is left when a larger write has failed


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Publishes one attempt's checkpoints and exports. Every rank must make each of its calls."""

    run: RunFolder
    attempt: int
    config: TrainConfig
    prediction: str
    world: World
    family: Family
    engine: Any

    def sweep(self) -> None:
        """Remove what killed attempts left half-written."""
        if self.world.is_main:
            sweep_staging(self.run.checkpoints)
            sweep_staging(self.run.exports)

    def save_checkpoint(self, step: int) -> Path:
        """Publish everything that is needed to go on after `step`."""
        final = self.run.checkpoint(step)
        staging = staging_folder(final, self.attempt)
        # Frozen weights come from the model again: a LoRA checkpoint stays small.
        with _full_disk_told_as_such(self.run.root):
            self.engine.save_checkpoint(
                str(staging), tag=DEEPSPEED_TAG, save_latest=False, exclude_frozen_parameters=True
            )
        mine = files_below(staging)[self.world.rank :: self.world.ranks]
        hashed = self.world.gather({name: fingerprint(staging / name) for name in mine})
        if self.world.is_main:
            facts = {"step": step, "attempt": self.attempt, "ranks": self.world.ranks}
            files = {name: value for part in hashed for name, value in part.items()}
            publish(staging, final, facts, files)
        self.world.barrier()
        return final

    def load_newest_checkpoint(self) -> tuple[int, list[str]]:
        """Load the newest whole checkpoint; its step (0 if there is none) and what was passed over.

        ValueError if there are checkpoints but none is whole: a run never starts over unasked.
        """
        found = newest_complete(self.run.checkpoints) if self.world.is_main else None
        folder, passed_over = self.world.share(found)
        if folder is None and passed_over:
            raise ValueError(f"no checkpoint in {self.run.checkpoints} is whole: {passed_over[0]}")
        if folder is None:
            return 0, []
        saved_ranks = read_manifest(folder)["ranks"]
        if saved_ranks != self.world.ranks:
            raise ValueError(
                f"{folder} was saved by {saved_ranks} ranks and cannot be resumed on "
                f"{self.world.ranks}: start as many"
            )
        loaded, _ = self.engine.load_checkpoint(
            str(folder), tag=DEEPSPEED_TAG, load_module_strict=False
        )
        assert loaded is not None, folder
        return step_of(folder), passed_over

    def has_export(self, step: int) -> bool:
        """Whether `step` is exported already."""
        return bool(self.world.share((self.run.export(step) / MANIFEST).is_file()))

    def export(self, step: int, previews: Sequence[Image.Image]) -> Path:
        """Publish the weights for inference, the trainer's own previews beside them.

        With LoRA: the adapter in diffusers' layout, its base named in the manifest. Without: a
        whole diffusers folder.
        """
        final = self.run.export(step)
        weights = gathered_weights(self.engine)
        if self.world.is_main:
            staging = staging_folder(final, self.attempt)
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            with _full_disk_told_as_such(self.run.root):
                facts = save_export(
                    staging,
                    self.family,
                    self.config,
                    weights,
                    prediction=self.prediction,
                    dtype=torch.float32,
                )
                _save_previews(previews, staging)
            publish(staging, final, {**facts, **self._export_facts(step)})
        self.world.barrier()
        return final

    def _export_facts(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "final": step == self.config.steps,
            "attempt": self.attempt,
        }


@contextmanager
def _full_disk_told_as_such(folder: Path) -> Iterator[None]:
    """Make one OSError of what torch, safetensors and shutil each raise when the disk is full."""
    try:
        yield
    except Exception as error:
        # safetensors says why; torch does not, but leaves the disk full.
        told = os.strerror(errno.ENOSPC) in str(error)
        if not told and shutil.disk_usage(folder).free > FULL_DISK_BYTES:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def _save_previews(previews: Sequence[Image.Image], folder: Path) -> None:
    for number, image in enumerate(previews):
        path = folder / "preview" / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
