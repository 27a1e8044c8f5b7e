"""One suite over some checkpoints: what is left to do, and what the ledger says so far."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import evalfarm.metrics  # noqa: F401  # registers them
from evalfarm.config import EvalConfig
from evalfarm.ledger import Checkpoint, Ledger, Picture
from evalfarm.metrics.base import get
from evalfarm.references import picture_names, references_digest
from evalfarm.suite import Suite
from evalfarm.work import Generate, Look, Unit, metric_key
from trainer.models.digest import weights_digest

GENERATORS, SCORERS = "generators", "scorers"


class Evaluation:
    """A suite's plan and record. What is done it asks the ledger: it can be made anew any time."""

    def __init__(self, suite: Suite, config: EvalConfig, folder: Path) -> None:
        self.suite = suite
        self.config = config
        self.folder = folder
        self.ledger = Ledger(folder / "ledger.sqlite", suite.name, suite.digest)
        metrics = {name: get(name) for name in suite.metrics}
        reasons = {name: metric.absent(config) for name, metric in metrics.items()}
        self.absent = {name: reason for name, reason in reasons.items() if reason}
        self.variants = {
            name: metric.variant(config)
            for name, metric in metrics.items()
            if name not in self.absent
        }
        self.references = self._add_references()

    def add_checkpoint(self, path: Path, step: int | None, name: str) -> Checkpoint:
        """Take a set of weights into the plan."""
        checkpoint = Checkpoint(
            checkpoint=weights_digest(path), kind="weights", step=step, name=name, path=str(path)
        )
        self.ledger.add_checkpoint(checkpoint)
        return checkpoint

    def reference_units(self) -> Iterator[tuple[str, Unit]]:
        """What is left to look at of the real pictures, with the pool that does it."""
        if self.references:
            names = [name for name in self.variants if get(name).needs_references]
            pictures = self.ledger.pictures(self.references.checkpoint)
            yield from self._looks(self.references, pictures, names, real=True)

    def units(self, checkpoint: Checkpoint) -> Iterator[tuple[str, Unit]]:
        """What is left to do for a checkpoint, with the pool that does it.

        A unit always holds the same pictures, so that one that is done again gives the same.
        """
        made = {(p.prompt, p.sample): p for p in self.ledger.pictures(checkpoint.checkpoint)}
        for pairs in _chunks(self.suite.pairs(), self.config.batch):
            if any(pair not in made for pair in pairs):
                yield GENERATORS, self._generate(checkpoint, pairs)
            else:
                pictures = [made[pair] for pair in pairs]
                yield from self._looks(checkpoint, pictures, list(self.variants), real=False)

    def follow_up(self, unit: Unit, pictures: Sequence[Picture]) -> Iterator[tuple[str, Unit]]:
        """What a finished unit leads to: its pictures are to be looked at."""
        if isinstance(unit, Generate):
            good = tuple(picture for picture in pictures if picture.status == "ok")
            if good:
                yield SCORERS, self._look(self.folder, good, list(self.variants), real=False)

    @property
    def has_references(self) -> bool:
        """Whether all real pictures that a metric wants are looked at."""
        return next(self.reference_units(), None) is None

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def _generate(self, checkpoint: Checkpoint, pairs: Sequence[tuple[int, int]]) -> Generate:
        return Generate(
            suite=self.suite,
            checkpoint=checkpoint.checkpoint,
            path=checkpoint.path,
            folder=self.folder,
            subfolder=f"{Path(checkpoint.path).name}-{checkpoint.checkpoint[:8]}",
            pairs=tuple(pairs),
        )

    def _looks(
        self, checkpoint: Checkpoint, pictures: list[Picture], names: list[str], *, real: bool
    ) -> Iterator[tuple[str, Unit]]:
        """Looks at the pictures that lack the score of any of these metrics."""
        folder = Path(checkpoint.path) if real else self.folder
        scored = {(s.prompt, s.sample, s.metric) for s in self.ledger.scores(checkpoint.checkpoint)}
        keys = [metric_key(name, self.variants[name]) for name in names]
        lacking = [
            picture
            for picture in pictures
            if picture.status == "ok"
            and any((picture.prompt, picture.sample, key) not in scored for key in keys)
        ]
        for some in _chunks(lacking, self.config.batch):
            yield SCORERS, self._look(folder, tuple(some), names, real=real)

    def _look(
        self, folder: Path, pictures: tuple[Picture, ...], names: list[str], *, real: bool
    ) -> Look:
        return Look(
            suite=self.suite,
            folder=folder,
            pictures=pictures,
            metrics=tuple(names),
            variants=tuple(self.variants[name] for name in names),
            real=real,
        )

    def _add_references(self) -> Checkpoint | None:
        """Take the real pictures into the plan, if a metric wants them."""
        source = self.config.references
        if source is None or not any(get(name).needs_references for name in self.variants):
            return None
        checkpoint = Checkpoint(
            checkpoint=references_digest(source),
            kind="references",
            step=None,
            name=source.name,
            path=str(source),
        )
        self.ledger.add_checkpoint(checkpoint)
        self.ledger.commit(
            Picture(
                checkpoint=checkpoint.checkpoint, prompt=number, sample=0, status="ok", file=name
            )
            for number, name in enumerate(picture_names(source))
        )
        return checkpoint


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
