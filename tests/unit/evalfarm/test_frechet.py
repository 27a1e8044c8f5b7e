"""The Fréchet distance against known cases and torchmetrics' own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from evalfarm.config import EvalConfig, NetworksConfig
from evalfarm.evaluation import Evaluation
from evalfarm.metrics.frechet import Frechet, frechet_distance
from tests.unit.evalfarm.conftest import SUITE, rows_of


def features(seed: int, n: int, dim: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).normal(shift, scale, (n, dim))


def test_equal_sets_are_at_no_distance() -> None:
    same = features(0, 500, 16)
    assert frechet_distance(same, same) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_by_its_square() -> None:
    first = features(0, 500, 4)
    assert frechet_distance(first, first + 3.0) == pytest.approx(4 * 9.0)


def test_one_dimension_has_a_closed_form() -> None:
    first, second = features(0, 200, 1), features(1, 300, 1, shift=2, scale=3)
    expected = (first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_it_is_symmetric_also_with_fewer_pictures_than_dimensions() -> None:
    first, second = features(0, 20, 64), features(1, 30, 64, shift=0.1)
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    assert there == pytest.approx(back, rel=1e-6)
    assert there > 0


def test_torchmetrics_gives_the_same_from_the_same_features() -> None:
    first, second = features(0, 400, 12), features(1, 300, 12, shift=0.3, scale=1.2)

    class Identity(torch.nn.Module):
        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    metric = FrechetInceptionDistance(feature=Identity(), input_img_size=(12,)).set_dtype(
        torch.float64
    )
    metric.update(torch.from_numpy(first), real=True)
    metric.update(torch.from_numpy(second), real=False)
    assert frechet_distance(first, second) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_the_summary_needs_two_pictures_on_each_side() -> None:
    metric = Frechet("clip", NetworksConfig())
    first, second = features(0, 50, 4), features(1, 50, 4)
    rows, references = rows_of(features=first), rows_of(features=second)
    distance = metric.summarize(rows, references)["distance"]
    assert distance == pytest.approx(frechet_distance(first, second), rel=1e-4)
    assert metric.summarize(rows.take(np.arange(1)), references) == {}


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        (None, "no real pictures: set eval.references to a tar or folder of them"),
        (Path("/no/such.tar"), "the real pictures /no/such.tar do not exist"),
    ],
)
def test_without_references_it_is_absent_with_the_reason(
    references: Path | None, reason: str, tmp_path: Path
) -> None:
    suite = replace(SUITE, metrics=("ocr", "frechet"))
    evaluation = Evaluation(suite, EvalConfig(references=references), tmp_path)
    assert evaluation.absent == {"frechet": reason}
    evaluation.close()
