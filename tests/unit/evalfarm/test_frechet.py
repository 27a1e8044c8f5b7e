"""The Fréchet distance against known cases and three other implementations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.image.fid import FrechetInceptionDistance

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.metrics.frechet import Frechet
from evalfarm.metrics.frechet_distance import Gaussian, distance_to, frechet_distance, gaussian
from tests.peers import peer
from tests.unit.evalfarm.conftest import SUITE, rows_of
from trainer.models.config import NetworksConfig

Features = NDArray[np.float64]


def features(seed: int, n: int, dim: int, shift: float = 0.0, scale: float = 1.0) -> Features:
    """Features that depend on each other."""
    chance = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) / dim**0.5
    return chance.normal(shift, scale, (n, dim)) @ mixing


def distance(first: Features, second: Features) -> float:
    """d² of two sets."""
    return frechet_distance(gaussian(first), gaussian(second))


@pytest.mark.parametrize("n", [2, 15, 16, 17, 500])
def test_equal_sets_are_at_no_distance_however_few(n: int) -> None:
    same = features(0, n, 16)
    assert distance(same, same) == pytest.approx(0, abs=1e-12)
    assert distance(same, same[::-1]) == pytest.approx(0, abs=1e-12)


def test_a_shift_counts_by_its_square() -> None:
    first = features(0, 500, 4)
    assert distance(first, first + 3.0) == pytest.approx(4 * 9.0)


def test_one_dimension_has_a_closed_form() -> None:
    first, second = features(0, 200, 1), features(1, 300, 1, shift=2, scale=3)
    expected = (first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2
    assert distance(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(("few", "many"), [(20, 30), (20, 300), (300, 20), (64, 65)])
def test_it_is_symmetric_also_with_fewer_pictures_than_dimensions(few: int, many: int) -> None:
    first, second = features(0, few, 64), features(1, many, 64, shift=0.1)
    assert distance(first, second) == pytest.approx(distance(second, first), rel=1e-12)
    assert distance(first, second) > 0


@pytest.mark.parametrize(("n", "m"), [(400, 300), (30, 400), (30, 20)])
def test_it_is_the_trace_of_scipys_root(n: int, m: int) -> None:
    first, second = features(0, n, 24), features(1, m, 24, shift=0.3, scale=1.2)
    covariances = [np.cov(side, rowvar=False) for side in (first, second)]
    # Where there is no full rank, the root is taken a hair beside it.
    hair = 1e-12 * np.eye(24)
    root = peer("scipy.linalg").sqrtm((covariances[0] + hair) @ (covariances[1] + hair))
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + sum(map(np.trace, covariances)) - 2 * np.trace(root).real
    assert distance(first, second) == pytest.approx(expected, rel=1e-4)


def test_torch_fidelity_gives_the_same_from_the_same_features() -> None:
    module = peer("torch_fidelity.metric_fid")
    first, second = features(0, 400, 12), features(1, 300, 12, shift=0.3, scale=1.2)
    sides = [module.fid_features_to_statistics(torch.from_numpy(f)) for f in (first, second)]
    expected = module.fid_statistics_to_metric(*sides, False)["frechet_inception_distance"]
    assert distance(first, second) == pytest.approx(expected, rel=1e-4)


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
    assert distance(first, second) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_a_dimension_that_never_varies_is_no_trouble() -> None:
    first, second = features(0, 300, 8), features(1, 300, 8, scale=1.5)
    dead = np.zeros((300, 3))
    widened = distance(np.hstack([first, dead]), np.hstack([second, dead + 2.0]))
    assert widened == pytest.approx(distance(first, second) + 3 * 4.0, rel=1e-9)


def test_pictures_named_twice_count_twice() -> None:
    first, second = features(0, 40, 16), features(1, 50, 16)
    rows, references = rows_of(features=first), rows_of(features=second)
    places = np.arange(40).repeat(2)
    found = distance_to(references, rows.take(places))
    again = gaussian(first.astype(np.float32)[places].astype(np.float64))
    expected = frechet_distance(again, gaussian(second.astype(np.float32).astype(np.float64)))
    assert found == pytest.approx(expected, rel=1e-9)
    assert found != pytest.approx(distance_to(references, rows), rel=1e-4)


def test_what_real_pictures_cost_is_paid_once_for_all_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def counted(some: NDArray[np.floating]) -> Gaussian:
        sizes.append(len(some))
        return gaussian(some)

    monkeypatch.setattr("evalfarm.metrics.frechet_distance.gaussian", counted)
    rows, references = rows_of(features=features(0, 30, 4)), rows_of(features=features(1, 50, 4))
    for seed in range(3):
        distance_to(references, rows.take(np.random.default_rng(seed).integers(0, 30, 30)))
    assert sorted(sizes) == [30, 30, 30, 50]


def test_the_summary_needs_two_pictures_on_each_side() -> None:
    metric = Frechet("clip", NetworksConfig())
    first, second = features(0, 50, 4), features(1, 50, 4)
    rows, references = rows_of(features=first), rows_of(features=second)
    found = metric.summarize(rows, references)["distance"]
    assert found == pytest.approx(distance(first, second), rel=1e-4)
    assert metric.summarize(rows.take(np.arange(1)), references) == {}
    assert metric.summarize(rows, references.take(np.arange(1))) == {}


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
