"""CMMD against its definition pair by pair, and what its CLIP is shown."""

from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evalfarm.metrics import cmmd
from evalfarm.metrics.base import Asked, Batch, get
from evalfarm.networks import Networks
from tests.unit.evalfarm.conftest import rows_of
from trainer.models.clip import Clip
from trainer.models.config import NetworksConfig


def unit_vectors(seed: int, n: int) -> np.ndarray:  # type: ignore[type-arg]
    vectors = np.random.default_rng(seed).normal(size=(n, 6))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pair_by_pair(first: np.ndarray, second: np.ndarray) -> float:  # type: ignore[type-arg]
    """The mean of the kernel by two loops."""
    return float(
        np.mean([[exp(-(np.linalg.norm(x - y) ** 2) / 200) for y in second] for x in first])
    )


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_it_is_the_mean_of_a_kernel_over_all_pairs(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmmd, "BLOCK", block)
    x, y = unit_vectors(0, 20).astype(np.float64), unit_vectors(1, 30).astype(np.float64)
    expected = 1000 * (pair_by_pair(x, x) + pair_by_pair(y, y) - 2 * pair_by_pair(x, y))
    found = get("cmmd", NetworksConfig()).summarize(rows_of(features=x), rows_of(features=y))
    assert found["cmmd"] == pytest.approx(expected, rel=1e-6)


def test_it_is_at_most_what_opposite_pictures_give() -> None:
    there = rows_of(features=np.array([[1.0, 0.0]] * 5))
    back = rows_of(features=np.array([[-1.0, 0.0]] * 4))
    expected = 1000 * 2 * (1 - exp(-4 / 200))
    found = get("cmmd", NetworksConfig()).summarize(there, back)["cmmd"]
    assert found == pytest.approx(expected)
    assert expected == pytest.approx(39.6, abs=0.01)


def test_clip_is_shown_the_square_in_the_middle(tiny_model: Path) -> None:
    networks = Networks(NetworksConfig(clip_l14_336=str(tiny_model / "clip")))
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    batch = Batch([Asked(image=Image.fromarray(noise))], networks)
    (seen,) = get("cmmd", networks.config).look(batch)
    expected = Clip(tiny_model / "clip").images([Image.fromarray(noise[:, 25:65])])
    torch.testing.assert_close(torch.from_numpy(seen.features), expected[0])
    assert float(expected.norm()) == pytest.approx(1)
