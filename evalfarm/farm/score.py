"""The actor that looks at pictures: the metrics of the suites, each network loaded once."""

import hashlib
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import evalfarm.metrics  # noqa: F401  # registers them
from evalfarm.farm.worker import worker_facts
from evalfarm.metrics.base import Asked, Batch, Metric, Seen, get
from evalfarm.networks import Networks
from evalfarm.references import read_picture
from evalfarm.rows import Picture, Score
from evalfarm.suite import Prompt
from evalfarm.work import Look, Result
from trainer.models.config import NetworksConfig


class Scorer:
    """Scores pictures. A Ray actor in the farm, a plain object anywhere else."""

    def __init__(self, networks: NetworksConfig, device: str = "cpu") -> None:
        self.networks = Networks(networks, device)
        self.facts = worker_facts("scorer", device)
        self._metrics: dict[str, Metric] = {}

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Look) -> Result:
        """The scores of a unit's pictures by the metrics that it names."""
        pairs = zip(unit.pictures, unit.prompts, strict=True)
        opened = [_try_to_open(unit, *pair) for pair in pairs]
        batch = Batch([one for one in opened if isinstance(one, Asked)], self.networks)
        scores: list[Score] = []
        for spec, rows in unit.metrics:
            started = time.monotonic()
            looked = iter(self._look(spec, batch) if len(batch) else ())
            seconds = (time.monotonic() - started) / len(opened)
            for picture, one in zip(unit.pictures, opened, strict=True):
                seen = one if isinstance(one, Exception) else next(looked)
                scores.append(self._row(rows, picture, seen, seconds))
        return Result(scores=scores, worker=self.facts)

    def _look(self, spec: str, batch: Batch) -> list[Seen | Exception]:
        """What a metric says of each picture; an exception for those that it stumbles over."""
        if spec not in self._metrics:
            self._metrics[spec] = get(spec, self.networks.config)
        try:
            return [_checked(seen) for seen in self._metrics[spec].look(batch)]
        except Exception as error:
            if len(batch) == 1:
                return [error]
        singles: Sequence[Batch] = [Batch([one], self.networks) for one in batch]
        return [seen for single in singles for seen in self._look(spec, single)]  # which was it?

    def _row(self, metric: str, picture: Picture, seen: Seen | Exception, seconds: float) -> Score:
        if isinstance(seen, Exception):
            status, error, seen = "failed", f"{type(seen).__name__}: {seen}", Seen()
        else:
            status, error = "ok", None
        return Score(
            checkpoint=picture.checkpoint,
            prompt=picture.prompt,
            sample=picture.sample,
            metric=metric,
            status=status,
            error=error,
            numbers=seen.numbers,
            detail=seen.detail,
            features=seen.features,
            worker=self.facts.worker,
            seconds=seconds,
        )


def _checked(seen: Seen) -> Seen:
    """ValueError if a number or feature is not finite: it would spoil every mean it is part of."""
    bad = [name for name, number in seen.numbers.items() if not math.isfinite(number)]
    if seen.features is not None and not np.isfinite(seen.features).all():
        bad.append("features")
    if bad:
        raise ValueError(f"{', '.join(bad)} not finite")
    return seen


def _try_to_open(unit: Look, picture: Picture, prompt: Prompt) -> Asked | Exception:
    """A picture that cannot be decoded fails alone; what a file system says is the whole unit's."""
    try:
        return _open(unit, picture, prompt)
    except OSError as error:
        if error.errno is not None:
            raise
        return error


def _open(unit: Look, picture: Picture, prompt: Prompt) -> Asked:
    assert picture.file is not None
    path = unit.folder / picture.file
    data = read_picture(unit.folder, picture.file)
    if picture.sha256 and hashlib.sha256(data).hexdigest() != picture.sha256:
        raise OSError(f"{path} is not the picture that was made")
    image = _decoded(data, path)
    target = _decoded(prompt.target.read_bytes(), prompt.target) if prompt.target else None
    return Asked(image=image, prompt=prompt.text, words=tuple(prompt.words), target=target)


def _decoded(data: bytes, path: Path) -> Image.Image:
    """RGB; OSError that names the file if it is no picture, a broken one or one too large."""
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except Exception as error:  # each of Pillow's decoders has its own
        raise OSError(f"{path} cannot be decoded ({type(error).__name__})") from error
