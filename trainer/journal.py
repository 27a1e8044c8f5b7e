"""What a rank has to say: a heartbeat, one JSON line per event, TensorBoard, a line for people."""

import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cluster.hangs.heartbeat import Heartbeat
from cluster.run_folder import RunFolder
from trainer.distributed import World
from trainer.own_time import OwnTime
from trainer.stragglers import Stragglers

log = logging.getLogger(__name__)


class BrokenLoss(FloatingPointError):
    """A loss or a gradient that is not finite."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class Journal:
    """Every rank has one; the events and TensorBoard are rank 0's alone."""

    def __init__(
        self, run: RunFolder, attempt: int, world: World, *, steps: int, images_per_step: int
    ) -> None:
        folder = run.attempt(attempt)
        self.beat = Heartbeat(folder.heartbeat(world.rank), world.rank)
        self.beat("load", step=0, steps=steps, images_per_step=images_per_step)
        self._world = world
        self._run = run
        self._events: TextIO | None = folder.events.open("a") if world.is_main else None
        self._board: SummaryWriter | None = None
        self.own_time = OwnTime(world.device)
        self._stragglers = Stragglers(world)
        self._named_slow: set[int] = set()
        self._kept: list[tuple[int, Mapping[str, Tensor], dict[str, Tensor | float]]] = []
        self._clock_s = time.monotonic()
        self._images_per_step = images_per_step
        self._broken: set[str] = set()
        self._losses: list[float] = []
        self._skipped = 0
        self._counts: Counter[str] = Counter()
        self._long = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._events:
            self._events.close()
        if self._board:
            self._board.close()
        self._stragglers.close()

    def open_board(self, first_step: int) -> None:
        """Start the curves at `first_step`; what an earlier attempt drew beyond it is dropped."""
        if self._world.is_main:
            self._board = SummaryWriter(self._run.tensorboard / "train", purge_step=first_step + 1)
            self._stragglers.open_board(self._run.tensorboard / "cluster", first_step + 1)

    def event(self, event: str, **facts: Any) -> None:
        """Record something that happened."""
        line = json.dumps({"event": event, "time": time.time(), **facts}) + "\n"
        with self._lock:  # exports are made by a thread of their own
            if self._events and not self._events.closed:
                self._events.write(line)
                self._events.flush()

    def note(self, message: str) -> None:
        """One line for people, on rank 0."""
        if self._world.is_main:
            log.info(message)

    def warn(self, message: str) -> None:
        """As `note`, and an event: whoever watches the run is told."""
        self.event("warning", message=message)
        self.note(f"warning: {message}")

    def start_clock(self) -> None:
        """Leave out of the images/s what came since the last step."""
        self._clock_s = time.monotonic()

    def keep(self, step: int, losses: Mapping[str, Tensor], **scalars: Tensor | float) -> None:
        """Keep one optimizer step's scalars; what is on the device stays until `write_steps`.

        `losses` are this rank's share, `scalars` the same on every rank. All ranks must have the
        same names, of which one is `loss`.
        """
        self._kept.append((step, losses, scalars))

    def write_steps(self) -> None:
        """Read the kept losses, averaged over the ranks, and record them. Every rank must call it.

        FloatingPointError if one is not finite.
        """
        kept, self._kept = self._kept, []
        if not kept:
            return
        mine = torch.stack([value for _, losses, _ in kept for value in losses.values()])
        means = iter(self._world.mean(mine).tolist())
        images = len(kept) * self._images_per_step
        images_per_s = images / max(time.monotonic() - self._clock_s, 1e-9)
        for step, losses, scalars in kept:
            numbers = {name: next(means) for name in losses}
            numbers |= {name: float(value) for name, value in scalars.items()}
            self._refuse_broken(step, numbers)
            self._losses.append(numbers["loss"])
            self._write_step(step, {**numbers, "images_per_s": images_per_s})
        self.beat("train", step=kept[-1][0], loss=self._losses[-1], images_per_s=images_per_s)
        self._compare_ranks(kept[-1][0])
        if self._board:
            self._board.flush()
        self.start_clock()

    def _compare_ranks(self, step: int) -> None:
        """Say which ranks are slow, and warn of each of them once."""
        own_s = self.own_time.take_s()
        slow = self._stragglers.compare(step, own_s)
        self.beat("train", own_s=own_s, stragglers=slow)
        for rank in slow.keys() - self._named_slow:
            self._named_slow.add(rank)
            self.warn(
                f"rank {rank} holds up the others: for its own part of a step it takes "
                f"{slow[rank]:.2f} times as long as the median rank"
            )

    def count(self, counts: Mapping[str, int]) -> None:
        """Add to this rank's counts of what could not be learnt from, by why."""
        found = {name: number for name, number in counts.items() if number}
        for name in found.keys() - self._counts.keys():
            log.warning("could not be judged, or not as it should, and is counted: %s", name)
        self._counts.update(found)
        if found:
            self.beat("train", left_out=dict(self._counts))

    def count_broken(self, names: list[str]) -> None:
        """Name each sample that this rank could not read, once, and count them."""
        for name in set(names) - self._broken:
            self._broken.add(name)
            log.warning("passed over a sample that cannot be read: %s", name)
            self.beat("train", broken_samples=len(self._broken))

    def pictures(self, step: int, images: Sequence[Image.Image]) -> None:
        """Show the previews of a step."""
        if self._board:
            for number, image in enumerate(images):
                self._board.add_image(f"preview/{number}", np.array(image), step, dataformats="HWC")
            self._board.flush()

    def mean_loss(self) -> float:
        """The mean of the losses written since this was last asked."""
        losses, self._losses = self._losses, []
        return sum(losses) / len(losses)

    def checkpoint(self, step: int, folder: Path, stall_s: float) -> None:
        """Record a checkpoint, and for how long the loop stood still for it."""
        self.event("checkpoint", step=step, path=str(folder), stall_s=stall_s)
        self.note(f"published {folder.name} to resume from")
        if self._board:
            self._board.add_scalar("train/save_stall_s", stall_s, step)

    def validated(self, step: int, mean: float, bands: dict[int, float]) -> None:
        """Record a validation: the mean loss, and that of each band of timesteps."""
        self.event("validation", step=step, loss=mean, bands=bands)
        self.note(f"validation loss {mean:.5f} after step {step}")
        if self._board:
            self._board.add_scalar("validation/loss", mean, step)
            for timestep, loss in bands.items():
                self._board.add_scalar(f"validation/loss_t{timestep:04d}", loss, step)
            self._board.flush()

    def count_skipped(self, names: list[str]) -> None:
        """Name the samples of a forward pass that was left out, and count it."""
        self._skipped += 1
        log.warning("left out a forward pass whose loss is not finite: %s", ", ".join(names))
        self.beat("train", skipped_passes=self._skipped)

    def count_long(self, captions: Sequence[str], limit: int) -> None:
        """Count captions that are longer than the text encoder reads, and show the first."""
        if captions and not self._long:
            log.warning(
                "a caption is longer than %d tokens, its end is not read: %s", limit, captions[0]
            )
        if captions:
            self._long += len(captions)
            self.beat("train", long_captions=self._long)

    def _refuse_broken(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise BrokenLoss(step, f"the {name} of step {step} is {value}")

    def _write_step(self, step: int, scalars: dict[str, float]) -> None:
        self.event("step", step=step, **scalars)
        if self._board:
            for name, value in scalars.items():
                self._board.add_scalar(f"train/{name}", value, step)
