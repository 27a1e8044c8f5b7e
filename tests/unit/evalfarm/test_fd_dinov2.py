"""FD-DINOv2 from pictures to the number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from evalfarm.metrics.base import Asked, Batch, get
from evalfarm.networks import Networks
from tests.unit.evalfarm.conftest import rows_of
from trainer.models.config import NetworksConfig
from trainer.models.digest import weights_digest
from trainer.models.dinov2 import Dinov2


@pytest.fixture
def networks(tmp_path: Path) -> Networks:
    """With a tiny DINOv2."""
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**size, image_size=28, patch_size=14)).save_pretrained(tmp_path)
    return Networks(NetworksConfig(dinov2=str(tmp_path)))


def colours(seed: int, n: int) -> list[Image.Image]:
    """Pictures of two colours each."""
    levels = np.random.default_rng(seed).integers(0, 256, (n, 1, 2, 3), dtype=np.uint8)
    return [Image.fromarray(picture).resize((40, 30)) for picture in levels]


def test_it_is_the_gap_of_means_and_spreads_of_the_cls_vectors(networks: Networks) -> None:
    metric = get("fd_dinov2", networks.config)
    sides = [colours(0, 12), colours(1, 20)]
    rows = []
    for images in sides:
        seen = metric.look(Batch([Asked(image=image) for image in images], networks))
        rows.append(rows_of(features=np.stack([one.features for one in seen])))
    dinov2 = Dinov2(Path(networks.config.dinov2))
    first, second = (dinov2.images(images).double().numpy() for images in sides)
    covariances = [np.cov(side, rowvar=False) for side in (first, second)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots
    assert metric.summarize(rows[0], rows[1])["fd_dinov2"] == pytest.approx(expected, rel=1e-4)


def test_the_variant_names_rules_and_weights(networks: Networks) -> None:
    metric = get("fd_dinov2", networks.config)
    assert metric.absent() is None
    assert metric.variant == f"dgm-eval@{weights_digest(Path(networks.config.dinov2))[:8]}"
