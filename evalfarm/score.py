"""The actor that looks at pictures: the metrics of the suites, each loaded when first asked for."""

import hashlib
import io
import socket
import time
from collections.abc import Sequence

from PIL import Image

import evalfarm.metrics  # noqa: F401  # registers them
from evalfarm.config import EvalConfig
from evalfarm.ledger import Picture, Score
from evalfarm.metrics.base import Asked, Metric, Seen, get
from evalfarm.references import read_picture
from evalfarm.suite import quoted_words
from evalfarm.work import Look, Result, metric_key


class Scorer:
    """Scores pictures. A Ray actor in the farm, a plain object anywhere else."""

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        self.worker = f"{socket.gethostname()}:scorer"
        self._metrics: dict[str, Metric] = {}

    def run(self, unit: Look) -> Result:
        """The scores of a unit's pictures by the metrics that it names."""
        asked = [_open(unit, picture) for picture in unit.pictures]
        scores: list[Score] = []
        for name, variant in zip(unit.metrics, unit.variants, strict=True):
            started = time.monotonic()
            seen = self._look(name, asked)
            seconds = (time.monotonic() - started) / len(asked)
            scores += [
                self._row(metric_key(name, variant), picture, one, seconds)
                for picture, one in zip(unit.pictures, seen, strict=True)
            ]
        return Result(scores=scores)

    def _look(self, name: str, asked: Sequence[Asked]) -> list[Seen | Exception]:
        """What a metric says of each picture; an exception for those that it stumbles over."""
        if name not in self._metrics:
            self._metrics[name] = get(name)(self.config)
        metric = self._metrics[name]
        try:
            return [*metric.look(asked)]
        except Exception as error:
            if len(asked) == 1:
                return [error]
        return [seen for one in asked for seen in self._look(name, [one])]  # which of them was it?

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
            worker=self.worker,
            seconds=seconds,
        )


def _open(unit: Look, picture: Picture) -> Asked:
    assert picture.file is not None
    data = read_picture(unit.folder, picture.file)
    if picture.sha256 and hashlib.sha256(data).hexdigest() != picture.sha256:
        raise OSError(f"{unit.folder / picture.file} is not the picture that was made")
    prompt = "" if unit.real else unit.suite.prompts[picture.prompt]
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return Asked(image=image, prompt=prompt, words=quoted_words(prompt))
