"""The aesthetic predictor against a plain stack of the same layers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from evalfarm.metrics.aesthetic import Aesthetic
from evalfarm.metrics.base import Asked, Batch
from evalfarm.metrics.clip_score import ClipScore
from evalfarm.networks import Networks
from trainer.models.aesthetic import AestheticHead
from trainer.models.clip import Clip
from trainer.models.config import NetworksConfig

IMAGES = [Image.new("RGB", (96, 32), colour) for colour in ("red", "white", "black")]


@pytest.fixture
def stack() -> nn.Sequential:
    """LAION's, on vectors of 8 numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(8, 12), nn.Dropout(0.2), nn.Linear(12, 10), nn.Dropout(0.2)),
        *(nn.Linear(10, 6), nn.Dropout(0.1), nn.Linear(6, 4), nn.Linear(4, 1)),
    ).eval()


@pytest.fixture
def networks(stack: nn.Sequential, tiny_model: Path, tmp_path: Path) -> NetworksConfig:
    path = tmp_path / "head.pth"
    torch.save({f"layers.{name}": weight for name, weight in stack.state_dict().items()}, path)
    return NetworksConfig(aesthetic=str(path), clip_l14=str(tiny_model / "clip"))


def test_ratings_are_those_of_a_plain_stack_on_unit_vectors(
    stack: nn.Sequential, networks: NetworksConfig
) -> None:
    seen = Aesthetic("v2", networks).look(
        Batch([Asked(image=image) for image in IMAGES], Networks(networks))
    )
    vectors = Clip(Path(networks.clip_l14)).images(IMAGES)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    with torch.no_grad():
        expected = stack(vectors).flatten().tolist()
    assert [one.numbers["aesthetic"] for one in seen] == pytest.approx(expected, abs=1e-6)


def test_one_pass_of_clip_serves_clip_score_and_aesthetic(
    networks: NetworksConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, images = [], Clip.images

    def counted(clip: Clip, pictures: list[Image.Image]) -> torch.Tensor:
        passes.append(len(pictures))
        return images(clip, pictures)

    monkeypatch.setattr(Clip, "images", counted)
    batch = Batch([Asked(image=image) for image in IMAGES], Networks(networks))
    ClipScore("l14", networks).look(batch)
    Aesthetic("v2", networks).look(batch)
    assert passes == [3]


def test_the_gradient_of_the_rating_reaches_the_pixels(networks: NetworksConfig) -> None:
    clip, head = Clip(Path(networks.clip_l14)), AestheticHead(Path(networks.aesthetic))
    pixels = torch.rand(2, 3, 32, 64, requires_grad=True)
    head(clip.vectors(pixels)).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_the_variant_changes_with_the_head_and_with_the_clip(
    networks: NetworksConfig, tmp_path: Path
) -> None:
    before = Aesthetic("v2", networks).variant
    other = torch.load(networks.aesthetic)
    other["layers.7.bias"] += 1
    torch.save(other, tmp_path / "other.pth")
    other_head = replace(networks, aesthetic=str(tmp_path / "other.pth"))
    other_clip = replace(networks, clip_l14=str(tmp_path / "other.pth"))
    variants = {before, *(Aesthetic("v2", n).variant for n in (other_head, other_clip))}
    assert len(variants) == 3
    assert all(variant.startswith("v2@") for variant in variants)


@pytest.mark.parametrize("missing", ["aesthetic", "clip_l14"])
def test_without_a_part_it_is_absent_with_the_reason(
    networks: NetworksConfig, missing: str
) -> None:
    assert Aesthetic("v2", networks).absent() is None
    reason = Aesthetic("v2", replace(networks, **{missing: "/no/such"})).absent()
    assert reason == f"/no/such does not exist: put it there, or set eval.networks.{missing}"


def test_a_head_of_another_make_is_told(tmp_path: Path) -> None:
    torch.save({"layers.0.weight": torch.zeros(4, 8)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"no aesthetic predictor: it lacks 'layers\.0\.bias'"):
        AestheticHead(tmp_path / "head.pth")
