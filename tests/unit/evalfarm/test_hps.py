"""HPS as a metric: scale, weights by mode, absence. Its network: tests/unit/trainer/test_hps.py."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from evalfarm.metrics.base import Asked, Batch
from evalfarm.metrics.hps import Hps
from evalfarm.networks import Networks
from tests.unit.trainer.test_hps import new_reference
from trainer.models.config import NetworksConfig
from trainer.models.hps import Hps as HpsNetwork

IMAGES = [Image.radial_gradient("L").convert("RGB"), Image.new("RGB", (96, 32), "red")]
PROMPTS = ["'hi' in grey", "'a' in red"]


@pytest.fixture
def networks(tiny_model: Path, tmp_path: Path) -> NetworksConfig:
    paths = []
    for seed in range(2):
        paths.append(str(tmp_path / f"{seed}.pt"))
        torch.save({"state_dict": new_reference(seed).state_dict()}, paths[-1])
    return NetworksConfig(hps_v2=paths[0], hps_v2_1=paths[1], clip_l14=str(tiny_model / "clip"))


def test_it_is_a_hundred_times_the_cosine_by_the_weights_of_its_mode(
    networks: NetworksConfig,
) -> None:
    asked = [Asked(image=i, prompt=p) for i, p in zip(IMAGES, PROMPTS, strict=True)]
    batch = Batch(asked, Networks(networks))  # one actor has both
    for mode, weights in (("v2", networks.hps_v2), ("v2.1", networks.hps_v2_1)):
        network = HpsNetwork(Path(weights), Path(networks.clip_l14))
        expected = 100 * network.score(network.pixels(IMAGES), PROMPTS)
        scores = [seen.numbers["hps"] for seen in Hps(mode, networks).look(batch)]
        assert scores == pytest.approx(expected.tolist(), abs=1e-4), mode
        assert min(map(abs, scores)) > 1e-3


def test_the_variant_names_version_and_weights(networks: NetworksConfig) -> None:
    first, second = Hps("v2", networks).variant, Hps("v2.1", networks).variant
    assert first.startswith("v2@")
    assert second.startswith("v2.1@")
    assert first.partition("@")[2] != second.partition("@")[2]


@pytest.mark.parametrize(("mode", "name"), [("v2", "hps_v2"), ("v2.1", "hps_v2_1")])
def test_without_its_weights_it_is_absent_with_the_reason(mode: str, name: str) -> None:
    reason = Hps(mode, NetworksConfig(**{name: "/no/such.pt"})).absent()
    assert reason == f"/no/such.pt does not exist: put it there, or set eval.networks.{name}"


def test_it_needs_the_tokenizer_of_a_clip(networks: NetworksConfig) -> None:
    assert Hps("v2", networks).absent() is None
    without = NetworksConfig(hps_v2=networks.hps_v2, clip_l14="/no/such")
    assert "set eval.networks.clip_l14" in str(Hps("v2", without).absent())
