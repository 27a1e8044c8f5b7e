"""A suite of three pictures whose rows the tests write themselves."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.ledger import Checkpoint, Picture, Rows, Score
from evalfarm.metrics.base import column_key
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


def write_checkpoint(evaluation: Evaluation, step: int, accuracies: list[float | None]) -> None:
    """Rows of one checkpoint: an accuracy each, None for a picture that failed."""
    checkpoint = Checkpoint(
        checkpoint=f"{step:064d}", kind="weights", step=step, name=f"step {step}", path="p"
    )
    evaluation.ledger.add_checkpoint(checkpoint)
    for prompt, accuracy in enumerate(accuracies):
        picture = {"checkpoint": checkpoint.checkpoint, "prompt": prompt, "sample": 0}
        if accuracy is None:
            evaluation.ledger.commit([Picture(**picture, status="failed", error="it broke")])
            continue
        file = f"images/{step}/{prompt}.png"
        path = evaluation.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 32), (step % 256, prompt, 0)).save(path)
        counts = ("words_right", "words_read", "sentence_right", "character_errors")
        names = ("precision", "recall", "accuracy", "ned", *counts)
        score = Score(
            **picture,
            metric=evaluation.metrics["ocr"].rows,
            status="ok",
            numbers=dict.fromkeys(names, accuracy) | {"words_asked": 1, "characters_asked": 3},
            detail={"read": f"read <{prompt}>"},
        )
        evaluation.ledger.commit([Picture(**picture, status="ok", file=file)], [score])


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
