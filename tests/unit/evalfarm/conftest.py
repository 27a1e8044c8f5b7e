"""A suite of three pictures whose rows the tests write themselves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.ledger import Checkpoint, Picture, Score
from evalfarm.suite import Suite

SUITE = Suite(
    name="three",
    prompts=("'one'", "'two' <b>", "'three'"),
    metrics=("ocr", "clip_score"),
    height=32,
    width=96,
)


@pytest.fixture
def evaluation(tmp_path: Path) -> Iterator[Evaluation]:
    """Without a CLIP: OCR is measured, CLIPScore is absent."""
    opened = Evaluation(SUITE, EvalConfig(batch=2), tmp_path / "three")
    yield opened
    opened.close()


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
        names = ("precision", "recall", "accuracy", "ned")
        score = Score(
            **picture,
            metric=f"ocr/{evaluation.variants['ocr']}",
            status="ok",
            numbers=dict.fromkeys(names, accuracy),
            detail={"read": f"read <{prompt}>"},
        )
        evaluation.ledger.commit([Picture(**picture, status="ok", file=file)], [score])
