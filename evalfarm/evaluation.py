"""One suite over some checkpoints: what is left to do, and what the ledger says so far."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import evalfarm.metrics  # noqa: F401  # registers them
from evalfarm.config import EvalConfig
from evalfarm.ledger import Ledger
from evalfarm.metrics.base import Metric, get
from evalfarm.references import RealPictures
from evalfarm.rows import Checkpoint, Picture
from evalfarm.suite import Item, Prompt, Suite
from evalfarm.work import Generate, Look, Unit
from trainer.models.named import named_digest, weights_of

GENERATORS, SCORERS, REPORTERS = "generators", "scorers", "reporters"
REAL = Prompt(text="")
FEWEST_REAL = 2
"""Of one there is no spread, and no distance to it."""


class Evaluation:
    """A suite's plan and record. What is done it asks the ledger: it can be made anew any time."""

    def __init__(
        self, suite: Suite, config: EvalConfig, folder: Path, *, read_only: bool = False
    ) -> None:
        self.suite = suite
        self.config = config
        self.folder = folder
        metrics = {spec: get(spec, config.networks) for spec in suite.metrics}
        reasons = {spec: self._absent(metric) for spec, metric in metrics.items()}
        self.absent = {spec: reason for spec, reason in reasons.items() if reason}
        """Why a metric of the suite cannot be measured here."""
        self.metrics = {spec: m for spec, m in metrics.items() if spec not in self.absent}
        """Those that can, as the suite names them."""
        path = folder / "ledger.sqlite"
        self.ledger = Ledger(path, suite.name, self._digest, read_only=read_only)
        self.references = self._find_references()
        if self.references and not read_only:
            self._add_references(self.references)

    def add_checkpoint(self, path: str | Path, step: int | None, name: str) -> Checkpoint:
        """Take a set of weights into the plan; `path` as in `find_named`."""
        path = str(path)
        checkpoint = Checkpoint(
            checkpoint=named_digest(path), kind="weights", step=step, name=name, path=path
        )
        self.ledger.add_checkpoint(checkpoint)
        return checkpoint

    def reference_units(self) -> Iterator[tuple[str, Unit]]:
        """What is left to look at of the real pictures, with the pool that does it."""
        if self.references:
            wanted = [spec for spec, m in self.metrics.items() if m.references == "set"]
            pictures = self.ledger.pictures(self.references.checkpoint)
            yield from self._looks(self.references, pictures, wanted, real=True)

    def units(self, checkpoint: Checkpoint) -> Iterator[tuple[str, Unit]]:
        """What is left to do for a checkpoint, with the pool that does it.

        A unit always holds the same pictures, so that one that is done again gives the same.
        """
        made = {(p.prompt, p.sample): p for p in self.ledger.pictures(checkpoint.checkpoint)}
        for items in _chunks(self.suite.items(), self.config.batch):
            if any((item.prompt, item.sample) not in made for item in items):
                yield GENERATORS, self._generate(checkpoint, items)
            else:
                pictures = [made[item.prompt, item.sample] for item in items]
                yield from self._looks(checkpoint, pictures, list(self.metrics), real=False)

    def follow_up(self, unit: Generate) -> Iterator[tuple[str, Unit]]:
        """What a unit leads to once it is committed: its pictures are to be looked at.

        They are those of the ledger: one that it had before stays as it was.
        """
        places = [(item.prompt, item.sample) for item in unit.items]
        there = self.ledger.pictures(unit.checkpoint, places[0][0], places[-1][0])
        good = self._scorable([p for p in there if (p.prompt, p.sample) in places])
        if good and self.metrics:
            specs = list(self.metrics)
            yield SCORERS, self._look(unit.checkpoint, self.folder, good, specs, real=False)

    @property
    def has_references(self) -> bool:
        """Whether all real pictures that a metric wants are looked at."""
        return next(self.reference_units(), None) is None

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    @property
    def _digest(self) -> str:
        """What decides the pictures: the suite, and the dtype that they are made in."""
        return f"{self.suite.digest} {self.config.precision}"

    def _absent(self, metric: Metric) -> str | None:
        if metric.references == "pairs" and not any(p.target for p in self.suite.prompts):
            return f"suite {self.suite.name} names no real picture for each prompt"
        if metric.references == "set":
            real = self._real_pictures
            if real is None:
                return "no real pictures: set eval.references to a tar or folder of them"
            if real.missing:
                return f"the real pictures {real.missing} do not exist"
            if len(real.names()) < FEWEST_REAL:
                return f"{real.path} holds fewer than {FEWEST_REAL} real pictures"
        return metric.absent()

    @property
    def _real_pictures(self) -> RealPictures | None:
        if self.suite.references or self.config.references is None:
            return self.suite.references
        return RealPictures(self.config.references)

    def _generate(self, checkpoint: Checkpoint, items: Sequence[Item]) -> Generate:
        return Generate(
            suite=self.suite.name,
            checkpoint=checkpoint.checkpoint,
            path=checkpoint.path,
            folder=self.folder,
            subfolder=picture_folder(checkpoint),
            sampling=self.suite.sampling,
            items=tuple(items),
        )

    def _looks(
        self, checkpoint: Checkpoint, pictures: Sequence[Picture], specs: list[str], *, real: bool
    ) -> Iterator[tuple[str, Unit]]:
        """Looks at the pictures that lack the score of any of these metrics."""
        folder = Path(checkpoint.path) if real else self.folder
        rows = {self.metrics[spec].rows for spec in specs}
        scored = {(p, s, metric) for p, s, metric, _ in self.ledger.scored(checkpoint.checkpoint)}
        lacking = [
            picture
            for picture in (pictures if real else self._scorable(pictures))
            if any((picture.prompt, picture.sample, name) not in scored for name in rows)
        ]
        for some in _chunks(lacking, self.config.batch):
            yield SCORERS, self._look(checkpoint.checkpoint, folder, some, specs, real=real)

    def _scorable(self, pictures: Sequence[Picture]) -> list[Picture]:
        prompts = self.suite.prompts
        return [p for p in pictures if p.status == "ok" and not prompts[p.prompt].filler]

    def _look(
        self,
        checkpoint: str,
        folder: Path,
        pictures: Sequence[Picture],
        specs: list[str],
        *,
        real: bool,
    ) -> Look:
        by_rows = {self.metrics[spec].rows: spec for spec in specs}  # one of those that share them
        return Look(
            suite=self.suite.name,
            checkpoint=checkpoint,
            folder=folder,
            pictures=tuple(pictures),
            prompts=tuple(REAL if real else self.suite.prompts[p.prompt] for p in pictures),
            metrics=tuple((spec, rows) for rows, spec in by_rows.items()),
            real=real,
        )

    def _find_references(self) -> Checkpoint | None:
        """The real pictures, if a metric wants them."""
        source = self._real_pictures
        if source is None or not any(m.references == "set" for m in self.metrics.values()):
            return None
        return Checkpoint(
            checkpoint=source.digest(),
            kind="references",
            step=None,
            name=source.path.name,
            path=str(source.path),
        )

    def _add_references(self, references: Checkpoint) -> None:
        """Take the real pictures into the plan."""
        assert self._real_pictures
        self.ledger.add_checkpoint(references)
        self.ledger.commit(
            Picture(
                checkpoint=references.checkpoint, prompt=number, sample=0, status="ok", file=name
            )
            for number, name in enumerate(self._real_pictures.names())
        )


def picture_folder(checkpoint: Checkpoint) -> str:
    """The folder of a checkpoint's pictures below `images`."""
    return f"{Path(weights_of(checkpoint.path)).name}-{checkpoint.checkpoint[:8]}"


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
