"""A suite of three pictures whose rows the tests write themselves."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.metrics.base import column_key
from evalfarm.rows import Checkpoint, Picture, Rows, Score
from evalfarm.suite import Prompt, Sampling, Suite

SUITE = Suite(
    name="three",
    prompts=tuple(Prompt(text=text) for text in ("'one'", "'two' <b>", "'three'")),
    metrics=("ocr", "clip_score"),
    sampling=Sampling(height=32, width=96),
)


@pytest.fixture
def evaluation(tmp_path: Path) -> Iterator[Evaluation]:
    """Without a CLIP: OCR is measured, CLIPScore is absent."""
    opened = Evaluation(SUITE, EvalConfig(batch=2), tmp_path / "three")
    yield opened
    opened.close()


def ocr_key(evaluation: Evaluation, name: str) -> str:
    """A column of the OCR metric, as results name it."""
    metric = evaluation.metrics["ocr"]
    return next(column_key(metric, column) for column in metric.columns if column.name == name)


def write_checkpoint(
    evaluation: Evaluation,
    step: int,
    accuracies: Sequence[float | None],
    digest: str | None = None,
) -> None:
    """Rows of one checkpoint: an accuracy each, None for a picture that failed."""
    checkpoint = Checkpoint(
        checkpoint=digest or f"{step:064d}",
        kind="weights",
        step=step,
        name=f"step {step}",
        path="p",
    )
    evaluation.ledger.add_checkpoint(checkpoint)
    pictures, scores = [], []
    for prompt, accuracy in enumerate(accuracies):
        place = {"checkpoint": checkpoint.checkpoint, "prompt": prompt, "sample": 0}
        if accuracy is None:
            pictures.append(Picture(**place, status="failed", error="it broke"))
            continue
        file = f"images/{step}/{prompt}.png"
        path = evaluation.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 32), (step % 256, prompt, 0)).save(path)
        pictures.append(Picture(**place, status="ok", file=file))
        scores.append(
            Score(
                **place,
                metric=evaluation.metrics["ocr"].rows,
                status="ok",
                numbers=_numbers(accuracy),
                detail={"read": f"read <{prompt}>"},
            )
        )
    evaluation.ledger.commit(pictures, scores)


def _numbers(accuracy: float) -> dict[str, float]:
    """What OCR would say of a picture that shows one word of three characters so well."""
    shares = ("precision", "recall", "accuracy", "ned", "words_right", "sentence_right")
    counts = {"words_read": 1.0, "words_asked": 1.0, "characters_asked": 3.0}
    return {**dict.fromkeys(shares, accuracy), **counts, "character_errors": 3 * (1 - accuracy)}


def rows_of(
    numbers: Sequence[Mapping[str, float]] = (),
    features: NDArray[np.floating] | None = None,
    samples_per_prompt: int = 1,
) -> Rows:
    """Rows as the ledger gives them, of pictures with these numbers or features."""
    places = np.arange(len(numbers) if features is None else len(features))
    return Rows(
        prompts=places // samples_per_prompt,
        samples=places % samples_per_prompt,
        numbers={name: np.array([row[name] for row in numbers]) for name in dict(*numbers[:1])},
        features=None if features is None else features.astype(np.float32),
    )
