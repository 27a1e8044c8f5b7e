"""Metrics over sets of pictures: what holds for all of them, from the ledger to the number."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evalfarm.ledger import Ledger
from evalfarm.metrics.base import get
from evalfarm.rows import NO_ROWS, Rows, Score
from tests.unit.evalfarm.conftest import rows_of
from trainer.models.config import NetworksConfig

TO_REAL_PICTURES = ("frechet", "fid/clean", "fid/mario", "kid", "cmmd", "fd_dinov2")
PICTURES, DIM, SAMPLES = 60, 24, 2


def features(seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Unit vectors around one direction."""
    vectors = np.random.default_rng(seed).normal(shift, 1, (PICTURES, DIM)) + np.eye(DIM)[0] * 3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def committed(tmp_path: Path, order: list[int], unit: int) -> Rows:
    """Rows out of a ledger that was given the pictures in this order, so many in a unit of work."""
    given = features(0)
    ledger = Ledger(tmp_path / f"{unit}.sqlite", "suite", "digest")
    scores = [
        Score(
            checkpoint="c",
            prompt=place // SAMPLES,
            sample=place % SAMPLES,
            metric="m",
            status="ok",
            features=given[place],
        )
        for place in order
    ]
    for first in range(0, len(scores), unit):
        ledger.commit(scores=scores[first : first + unit])
    rows = ledger.rows("c", "m")
    ledger.close()
    return rows


@pytest.mark.parametrize("spec", [*TO_REAL_PICTURES, "inception_score"])
def test_any_split_over_workers_in_any_order_gives_what_one_pass_gives(
    spec: str, tmp_path: Path
) -> None:
    metric, references = get(spec, NetworksConfig()), rows_of(features=features(1, shift=0.2))
    whole = rows_of(features=features(0), samples_per_prompt=SAMPLES)
    expected = metric.summarize(whole, references)
    shuffled = np.random.default_rng(5).permutation(PICTURES).tolist()
    assert expected
    for order, unit in ((list(range(PICTURES)), PICTURES), (shuffled, 7), (shuffled[::-1], 1)):
        assert metric.summarize(committed(tmp_path, order, unit), references) == expected


@pytest.mark.parametrize("spec", ["frechet", "fid/clean", "kid", "cmmd", "fd_dinov2"])
def test_the_order_of_the_pictures_does_not_matter(spec: str) -> None:
    metric = get(spec, NetworksConfig())
    rows, references = rows_of(features=features(0)), rows_of(features=features(1))
    expected = metric.summarize(rows, references)
    turned = metric.summarize(rows.take(np.arange(PICTURES)[::-1]), references)
    assert turned == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("spec", ["frechet", "fid/clean", "fid/tf", "cmmd", "fd_dinov2"])
def test_the_real_pictures_themselves_are_at_no_distance(spec: str) -> None:
    (value,) = (
        get(spec, NetworksConfig())
        .summarize(rows_of(features=features(0)), rows_of(features=features(0)))
        .values()
    )
    assert value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("spec", TO_REAL_PICTURES)
def test_pictures_further_off_are_further_off(spec: str) -> None:
    metric, references = get(spec, NetworksConfig()), rows_of(features=features(1))
    near, far = (
        metric.summarize(rows_of(features=features(0, shift)), references) for shift in (0.2, 0.8)
    )
    name = metric.columns[0].name
    assert near[name] < far[name]


@pytest.mark.parametrize("spec", TO_REAL_PICTURES)
def test_a_column_is_left_out_with_fewer_than_two_pictures_on_a_side(spec: str) -> None:
    metric = get(spec, NetworksConfig())
    rows = rows_of(features=features(0), samples_per_prompt=SAMPLES)
    one = rows.take(np.arange(1))
    assert metric.summarize(one, rows) == {}
    assert metric.summarize(rows, one) == {}
    assert metric.summarize(NO_ROWS, rows) == metric.summarize(rows, NO_ROWS) == {}


@pytest.mark.parametrize(
    ("spec", "network"),
    [
        ("fid", "inception"),
        ("kid", "inception"),
        ("inception_score", "inception"),
        ("cmmd", "clip_l14_336"),
        ("fd_dinov2", "dinov2"),
    ],
)
def test_without_its_network_each_is_absent_with_the_reason(spec: str, network: str) -> None:
    metric = get(spec, NetworksConfig(**{network: "/no/such"}))
    expected = f"/no/such does not exist: put it there, or set eval.networks.{network}"
    assert metric.absent() == expected
