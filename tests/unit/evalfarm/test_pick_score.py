"""PickScore against transformers' own logits, and TextCraftor's matrix against a plain loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evalfarm.metrics.base import Asked, Batch, Seen
from evalfarm.metrics.pick_score import PickScore
from evalfarm.networks import Networks
from evalfarm.rows import NO_ROWS, Rows
from trainer.models.clip import Clip
from trainer.models.config import NetworksConfig
from trainer.models.pick_score import PickScore as PickScoreNetwork

COLOURS = ("red", "white", "black", "blue", "green", "gray")
ASKED = [Asked(image=Image.new("RGB", (96, 32), c), prompt=f"'{c}' in {c}") for c in COLOURS]


@pytest.fixture
def networks(tiny_model: Path) -> NetworksConfig:
    return NetworksConfig(pick_score=str(tiny_model / "clip"))


@pytest.fixture
def logits(tiny_model: Path) -> torch.Tensor:
    """transformers' logits_per_image: pictures prompts."""
    clip = Clip(tiny_model / "clip")
    pixels = clip.processor([asked.image for asked in ASKED], return_tensors="pt").pixel_values
    tokens = clip.tokenizer(
        [asked.prompt for asked in ASKED], padding="max_length", return_tensors="pt"
    )
    return clip.model(pixel_values=pixels, **tokens).logits_per_image


def rows_of_looks(metric: PickScore, batches: list[list[int]]) -> Rows:
    """Rows in the order of the suite, of pictures that were looked at in these batches."""
    loaded = Networks(metric.networks)
    seen: dict[int, Seen] = {}
    for places in batches:
        batch = Batch([ASKED[place] for place in places], loaded)
        seen |= dict(zip(places, metric.look(batch), strict=True))
    rows = [seen[place] for place in range(len(ASKED))]
    features = [row.features for row in rows if row.features is not None]
    return Rows(
        prompts=np.arange(len(ASKED)),
        samples=np.zeros(len(ASKED), np.int64),
        numbers={name: np.array([row.numbers[name] for row in rows]) for name in rows[0].numbers},
        features=np.stack(features) if features else None,
    )


def test_the_diagonal_is_that_of_transformers_logits(
    networks: NetworksConfig, logits: torch.Tensor
) -> None:
    metric = PickScore("diagonal", networks)
    rows = rows_of_looks(metric, [[0, 1, 2, 3, 4, 5]])
    assert rows.numbers["score"] == pytest.approx(logits.diagonal().numpy(), abs=1e-4)
    expected = float(logits.diagonal().mean())
    assert metric.summarize(rows, NO_ROWS)["score"] == pytest.approx(expected, abs=1e-4)


def test_the_matrix_is_the_mean_over_all_pairs_of_four_prompts(
    networks: NetworksConfig, logits: torch.Tensor
) -> None:
    metric = PickScore("matrix4", networks)
    found = metric.summarize(rows_of_looks(metric, [[0, 1, 2, 3, 4, 5]]), NO_ROWS)["score"]
    four, rest = float(logits[:4, :4].mean()), float(logits[4:, 4:].mean())
    assert found == pytest.approx((4 * four + 2 * rest) / 6, abs=1e-4)
    assert found != pytest.approx(float(logits.diagonal().mean()), abs=1e-3)


def test_the_matrix_is_the_same_however_pictures_were_split_over_workers(
    networks: NetworksConfig,
) -> None:
    metric = PickScore("matrix4", networks)
    splits = [[[0, 1, 2, 3, 4, 5]], [[5, 0], [3, 1, 2], [4]]]
    once, split = (metric.summarize(rows_of_looks(metric, s), NO_ROWS)["score"] for s in splits)
    assert split == pytest.approx(once, rel=1e-6)


def test_each_sample_of_four_prompts_is_a_matrix_of_its_own(networks: NetworksConfig) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 6)).astype(np.float32)
    rows = Rows(
        prompts=np.repeat(np.arange(4), 2),
        samples=np.tile(np.arange(2), 4),
        numbers={},
        features=features,
    )
    pairs = [
        float(features[i, :3] @ features[j, 3:])
        for i in range(8)
        for j in range(8)
        if rows.samples[i] == rows.samples[j]
    ]
    found = PickScore("matrix4", networks).summarize(rows, NO_ROWS)["score"]
    assert found == pytest.approx(np.mean(pairs), rel=1e-5)


def test_the_gradient_of_the_score_reaches_the_pixels(
    networks: NetworksConfig, logits: torch.Tensor
) -> None:
    network = PickScoreNetwork(Path(networks.pick_score))
    pixels = network.clip.pixels([asked.image for asked in ASKED]).requires_grad_()
    scores = network.score(pixels, [asked.prompt for asked in ASKED])
    torch.testing.assert_close(scores, logits.diagonal(), atol=1e-4, rtol=1e-4)
    scores.sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_without_its_weights_it_is_absent_with_the_reason() -> None:
    reason = PickScore("diagonal", NetworksConfig(pick_score="/no/such")).absent()
    assert reason == "/no/such does not exist: put it there, or set eval.networks.pick_score"
