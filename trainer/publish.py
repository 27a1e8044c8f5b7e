"""What a run leaves behind: checkpoints to resume from, exports to make pictures with.

A checkpoint is published while training goes on. At the step, each rank copies what it holds to
host memory; a thread of its own writes and hashes it. Once every rank has, rank 0 writes the
manifest and renames the folder: then, and only then, it exists (cluster/run_folder.py). From that
folder, again beside the training, rank 0 makes the export.

The copy takes 12 bytes of host memory for each weight that a rank answers for, 16 with an average.
It is kept from one checkpoint to the next: fresh memory costs several times what the copying does,
and pinned memory more. So a checkpoint that comes before the last one is written waits for it.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cluster.fence import Fence
from cluster.run_folder import (
    MANIFEST,
    RunFolder,
    fingerprint,
    newest_complete,
    point_latest,
    publish,
    recover,
    staging_folder,
    step_of,
)
from trainer.checkpoint import Checkpoint, part_file, save_part
from trainer.config import TrainConfig
from trainer.distributed import World
from trainer.ema import EMA
from trainer.journal import Journal
from trainer.learner import Learner
from trainer.masters import MASTER
from trainer.models.dtypes import DTYPES
from trainer.models.exports import save_export
from trainer.models.family import Family
from trainer.objectives.objective import Objective
from trainer.retention import remove_old

FULL_DISK_BYTES = 1 << 20  # what is left when a larger write has failed
Previews = Sequence[Image.Image]


@dataclass(frozen=True)
class Snapshot:
    """What a rank held after a step, in host memory."""

    step: int
    final: bool
    """Nothing comes after it."""
    history: dict[str, dict[int, float]]
    tensors: dict[str, Tensor]
    previews: Previews
    copied: torch.cuda.Event | None
    """The copy from the GPU is done when this has happened; None: it is done."""
    copy_s: float
    """What it cost the loop."""


class Publisher:
    """Publishes one attempt's checkpoints and exports. Every rank must make each of its calls."""

    def __init__(
        self,
        run: RunFolder,
        attempt: int,
        config: TrainConfig,
        world: World,
        journal: Journal,
        objective: Objective,
    ) -> None:
        self.run = run
        self.config = config
        self.world = world
        self._attempt = attempt
        self._permit = Fence(run, attempt).check
        self._journal = journal
        self._family = objective.family
        self._prediction = objective.prediction
        # One thread: on rank 0 an export is made before the next checkpoint is written.
        self._thread = ThreadPoolExecutor(1, "publisher")
        self._pending: tuple[Snapshot, Future[dict[str, Any]]] | None = None
        self._exports: list[Future[Path]] = []
        self._host: dict[str, Tensor] = {}

    def sweep(self) -> None:
        """Undo what killed attempts left half done."""
        if self.world.is_main:
            self._permit()  # what a newer attempt has under way is not ours to sweep
            recover(self.run.checkpoints)
            recover(self.run.exports)
        self.world.barrier()

    def newest_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, if there is one, and what was passed over.

        What a kill kept from being done after it was published is done now.
        ValueError if there are checkpoints but none is whole: a run never starts over unasked.
        """
        found = newest_complete(self.run.checkpoints) if self.world.is_main else None
        folder, passed_over = self.world.share(found)
        if folder is None and passed_over:
            raise ValueError(f"no checkpoint in {self.run.checkpoints} is whole: {passed_over[0]}")
        if self.world.is_main:
            self._finish(folder)
        return (Checkpoint(folder) if folder else None), passed_over

    def save(self, learner: Learner, previews: Previews, *, final: bool) -> None:
        """Begin to publish everything that is needed to go on after the learner's step.

        `final`: nothing will, unless the recipe is changed.
        """
        self.wait()
        self._permit()  # on every rank: each of a superseded attempt says so itself
        snapshot = _snapshot(learner, previews, final, self._host)
        self._host = snapshot.tensors
        masters = learner.masters
        fragments = masters.fragments_of(masters.mine)
        self._shapes = masters.shapes
        path = self._staging(learner.step) / part_file(self.world.rank)

        def write() -> dict[str, Any]:
            if snapshot.copied:
                snapshot.copied.synchronize()
            with _full_disk_told_as_such(self.run.root):
                save_part(path, snapshot.tensors, fragments)
                return fingerprint(path)

        self._pending = (snapshot, self._thread.submit(write))

    def advance(self) -> None:
        """Publish what has been written since; costs nothing while nothing is under way."""
        self._raise_failed_exports()
        if self._pending and not self.world.any(not self._pending[1].done()):
            self._publish()

    def wait(self) -> None:
        """Publish what is under way."""
        if self._pending:
            self._publish()

    def close(self) -> None:
        """Publish what is under way, its export included."""
        self.wait()
        for export in self._exports:
            export.result()
        self.world.barrier()
        self._thread.shutdown()

    def has_export(self, step: int) -> bool:
        """Whether `step` is exported already."""
        return bool(self.world.share((self.run.export(step) / MANIFEST).is_file()))

    def export_again(self, checkpoint: Checkpoint | None, previews: Previews) -> None:
        """Publish the export that should be there already: of a checkpoint, or of step 0.

        At step 0 it is the model as it was: its name, no weights.
        """
        if checkpoint:
            final = bool(checkpoint.manifest["final"])
            self._export(checkpoint.folder, checkpoint.step, final, previews)
            return
        base = self._family.source.facts
        facts = {"kind": "base", **base, "prediction": self._prediction, "final": False}
        self._make_export(0, previews, lambda _: facts)

    def _export(self, checkpoint: Path, step: int, final: bool, previews: Previews) -> None:
        def write(staging: Path) -> dict[str, Any]:
            facts = export_weights(
                Checkpoint(checkpoint), staging, self._family, self.config, self._prediction
            )
            return {**facts, "final": final}

        self._make_export(step, previews, write)

    def _publish(self) -> None:
        assert self._pending is not None
        (snapshot, future), self._pending = self._pending, None
        began_s = time.monotonic()
        part = future.result()  # done already, unless the loop has come to the next one
        parts = self.world.gather((part_file(self.world.rank), part))
        final = self.run.checkpoint(snapshot.step)
        if self.world.is_main:
            facts = {
                "step": snapshot.step,
                "attempt": self._attempt,
                "ranks": self.world.ranks,
                "final": snapshot.final,
                "shapes": self._shapes,
                "history": snapshot.history,
            }
            staging = self._staging(snapshot.step)
            publish(staging, final, facts, dict(parts), permit=self._permit)
        stall_s = snapshot.copy_s + time.monotonic() - began_s
        self._journal.checkpoint(snapshot.step, final, stall_s)
        self._export(final, snapshot.step, snapshot.final, snapshot.previews)

    def _make_export(
        self, step: int, previews: Previews, write: Callable[[Path], dict[str, Any]]
    ) -> None:
        self._journal.pictures(step, previews)
        if not self.world.is_main:
            return
        final = self.run.export(step)
        rest = {"step": step, "attempt": self._attempt}

        def make() -> Path:
            staging = staging_folder(final, self._attempt)
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            with _full_disk_told_as_such(self.run.root):
                facts = write(staging)
                _save_previews(previews, staging)
                publish(staging, final, {**facts, **rest}, permit=self._permit)
            self._journal.event("export", step=step, path=str(final))
            self._journal.note(f"published {final.name} for inference")
            self._remove_old(step)
            return final

        self._exports.append(self._thread.submit(make))

    def _finish(self, checkpoint: Path | None) -> None:
        """Do what follows a publication, in case that a kill came before it."""
        if checkpoint:
            point_latest(checkpoint, self._permit)
        step = step_of(checkpoint) if checkpoint else 0
        export = self.run.export(step)
        if (export / MANIFEST).is_file():
            point_latest(export, self._permit)
            self._remove_old(step)

    def _remove_old(self, step: int) -> None:
        for old in remove_old(self.run, step, self.config.keep, self._permit):
            self._journal.note(f"removed checkpoint {old}: train.keep")

    def _raise_failed_exports(self) -> None:
        for export in [export for export in self._exports if export.done()]:
            export.result()
            self._exports.remove(export)

    def _staging(self, step: int) -> Path:
        return staging_folder(self.run.checkpoint(step), self._attempt)


def export_weights(
    checkpoint: Checkpoint,
    folder: Path,
    family: Family,
    config: TrainConfig,
    prediction: str,
    *,
    weights: str | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Write a checkpoint's weights for inference; see `save_export`.

    `weights`: EMA or MASTER, or None for the average if there is one. `dtype`: fp16, bf16 or fp32,
    or None for the recipe's. No collective: any one process can do it, at any time. ValueError if
    the checkpoint has no average.
    """
    kind = weights or (EMA if EMA in checkpoint.kinds else MASTER)
    if kind not in checkpoint.kinds:
        raise ValueError(f"{checkpoint.folder} holds no running average: the recipe has no ema")
    if dtype is None:
        same = config.export_dtype == "as_precision"
        dtype = config.precision if same else config.export_dtype
    facts = save_export(
        folder,
        family,
        config,
        checkpoint.weights(kind),
        prediction=prediction,
        dtype=DTYPES[dtype],
    )
    return {**facts, "weights": kind}


def _snapshot(
    learner: Learner, previews: Previews, final: bool, reused: Mapping[str, Tensor]
) -> Snapshot:
    """Copy what this rank answers for to host memory, without waiting for the GPU.

    Tensors of an earlier snapshot, `reused`, are overwritten.
    """
    began_s = time.monotonic()
    held = learner.masters.saved()
    if learner.ema:
        held |= {f"{EMA}/{number}": flat for number, flat in learner.ema.averages.items()}
    tensors, copied = {}, None
    for name, tensor in held.items():
        host = reused.get(name)
        if host is None:
            host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        tensors[name] = host.copy_(tensor, non_blocking=True)
        if tensor.is_cuda and copied is None:
            copied = torch.cuda.Event()
    if copied:
        copied.record()
    history = {name: dict(values) for name, values in learner.history.items()}
    copy_s = time.monotonic() - began_s
    return Snapshot(learner.step, final, history, tensors, previews, copied, copy_s)


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


def _save_previews(previews: Previews, folder: Path) -> None:
    for number, image in enumerate(previews):
        path = folder / "preview" / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
