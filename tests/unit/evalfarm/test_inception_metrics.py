"""FID, KID and the Inception Score against torch-fidelity and torchmetrics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.farm.score import Scorer
from evalfarm.metrics.base import Asked, Batch, column_key, get
from evalfarm.metrics.inception_score import PARTS, SEED, part_scores
from evalfarm.metrics.kid import squared_mmd, subset_distances
from evalfarm.networks import Networks
from evalfarm.work import Look
from tests.peers import peer
from tests.unit.evalfarm.conftest import SUITE, rows_of
from trainer.models.config import NetworksConfig
from trainer.models.digest import weights_digest
from trainer.models.inception import Inception

Features = NDArray[np.float64]


class Identity(torch.nn.Module):
    """For torchmetrics: features in the place of pictures."""

    num_features = 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def features(seed: int, n: int, shift: float = 0.0) -> Features:
    """As Inception's are: never negative."""
    return np.random.default_rng(seed).gamma(2 + shift, 0.3, (n, Identity.num_features))


@pytest.fixture
def networks(inception_file: Path) -> NetworksConfig:
    """With a random Inception."""
    return NetworksConfig(inception=str(inception_file))


def test_kid_is_torch_fidelitys_subset_by_subset() -> None:
    first, second = features(0, 120), features(1, 150, shift=0.1)
    expected = peer("torch_fidelity.metric_kid").kid_features_to_metric(
        torch.from_numpy(first), torch.from_numpy(second), kid_subset_size=40, verbose=False
    )
    found = list(subset_distances(first, second, pictures=40))
    assert np.mean(found) == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert np.std(found) == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


def test_kid_of_all_pictures_is_torchmetrics() -> None:
    first, second = features(0, 90), features(1, 90, shift=0.1)
    with pytest.warns(UserWarning, match="save all extracted features"):
        metric = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=90)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(first), real=True)
    metric.update(torch.from_numpy(second), real=False)
    assert squared_mmd(first, second) == pytest.approx(float(metric.compute()[0]), rel=1e-4)


def test_kid_of_two_pictures_a_side_can_be_counted_on_the_fingers() -> None:
    first, second = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [2.0, 0.0]])
    # k = (x·y / 2 + 1)³: within 1 and 8; across 1.5³, 2³, 1.5³, 1.
    across = (2 * 1.5**3 + 2**3 + 1) / 4
    assert squared_mmd(first, second) == pytest.approx(1 + 8 - 2 * across)


def test_kid_has_no_spread_where_a_subset_is_all_there_is() -> None:
    metric = get("kid", NetworksConfig())
    small, large = rows_of(features=features(0, 30)), rows_of(features=features(1, 40))
    assert metric.summarize(small, small.take(np.arange(30)[::-1])).keys() == {"kid"}
    assert metric.summarize(small, large)["std"] > 0


def test_the_inception_score_is_torch_fidelitys() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (103, 1008))
    expected = peer("torch_fidelity.metric_isc").isc_features_to_metric(torch.from_numpy(logits))
    found = get("inception_score", NetworksConfig()).summarize(
        rows_of(features=logits), rows_of(features=logits[:0])
    )
    assert found["score"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert found["std"] == pytest.approx(expected["inception_score_std"], rel=1e-4)


def test_the_inception_score_is_torchmetrics_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (100, 1008))
    order = torch.from_numpy(np.random.RandomState(SEED).permutation(100))
    monkeypatch.setattr(torch, "randperm", lambda n: order)
    with pytest.warns(UserWarning, match="save all extracted features"):
        metric = InceptionScore(feature=Identity(), splits=PARTS)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(logits))
    mean, spread = metric.compute()
    scores = part_scores(logits)
    assert np.mean(scores) == pytest.approx(float(mean), rel=1e-4)
    assert np.std(scores, ddof=1) == pytest.approx(float(spread), rel=1e-4)


def test_the_inception_score_counts_the_kinds() -> None:
    sure = 50 * np.eye(1008)[np.arange(2000) % 4]
    # Chance puts 200 pictures into each part, and the four kinds not quite evenly.
    assert np.mean(part_scores(sure)) == pytest.approx(4, rel=0.02)
    assert part_scores(np.zeros((20, 1008))) == pytest.approx([1.0] * PARTS)
    few = rows_of(features=np.zeros((19, 1008)))
    assert get("inception_score", NetworksConfig()).summarize(few, few) == {}


def test_mario_is_the_mean_of_a_fid_for_each_sample_number() -> None:
    real = rows_of(features=features(9, 50))
    rows = rows_of(features=features(0, 80), samples_per_prompt=4)
    plain, mario = get("fid/torch", NetworksConfig()), get("fid/mario", NetworksConfig())
    each = [plain.summarize(rows.take(rows.samples == k), real)["fid"] for k in range(4)]
    assert mario.summarize(rows, real)["fid"] == pytest.approx(np.mean(each), rel=1e-12)
    assert mario.summarize(rows, real)["fid"] != pytest.approx(plain.summarize(rows, real)["fid"])
    # One of the samples has a picture only: no mean over the others in its place.
    assert mario.summarize(rows.take(rows.samples < 1 + (rows.prompts == 0)), real) == {}


def test_metrics_that_look_alike_share_rows_and_the_pass_through_the_network(
    networks: NetworksConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    look = Inception.look

    def counted(self: Inception, images: list[Image.Image], mode: str) -> object:
        passes.append(mode)
        return look(self, images, mode)

    monkeypatch.setattr(Inception, "look", counted)
    batch = Batch([Asked(image=Image.new("RGB", (64, 64), "red"))] * 2, Networks(networks))
    fid, kid, score = (get(spec, networks) for spec in ("fid", "kid", "inception_score/clean"))
    seen = [metric.look(batch)[0].features for metric in (fid, kid, score)]
    assert passes == ["clean"]
    assert [one.shape for one in seen if one is not None] == [(2048,), (2048,), (1008,)]
    assert fid.rows == kid.rows != score.rows
    assert get("fid/mario", networks).rows == get("kid/torch", networks).rows != fid.rows


def test_the_farm_looks_at_a_real_picture_once_for_fid_and_kid(
    networks: NetworksConfig, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(real / f"{colour}.png")
    suite = replace(SUITE, metrics=("fid", "kid", "inception_score"))
    config = EvalConfig(networks=networks, references=real)
    evaluation = Evaluation(suite, config, tmp_path / "eval")
    ((_, unit),) = evaluation.reference_units()
    assert isinstance(unit, Look)
    result = Scorer(networks).run(unit)
    assert {score.metric for score in result.scores} == {get("fid", networks).rows}
    evaluation.ledger.commit(scores=result.scores)
    assert evaluation.references is not None
    rows = evaluation.ledger.rows(evaluation.references.checkpoint, get("kid", networks).rows)
    assert rows.features is not None
    assert rows.features.shape == (2, 2048)
    assert evaluation.has_references
    evaluation.close()


def test_names_tell_rules_and_weights(networks: NetworksConfig, inception_file: Path) -> None:
    digest = weights_digest(inception_file)[:8]
    keys = [
        column_key(metric, column)
        for metric in (get(spec, networks) for spec in ("fid/mario", "kid/tf", "inception_score"))
        for column in metric.columns
    ]
    assert keys == [
        f"fid/mario@{digest}",
        f"kid/tf@{digest}",
        f"kid_std/tf@{digest}",
        f"inception_score/tf@{digest}",
        f"inception_score_std/tf@{digest}",
    ]
