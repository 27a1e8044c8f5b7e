"""CLIP's vectors, from pictures and from pixels."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.models.clip import Clip
from trainer.models.rgb import rgb_pixels


@pytest.fixture
def cropping_clip(tiny_model: Path, tmp_path: Path) -> Path:
    """A CLIP that sees the middle of a picture, as OpenAI's do."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_model / "clip", folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    changes = {"size": {"shortest_edge": 96}, "crop_size": 96, "do_center_crop": True}
    path.write_text(json.dumps(settings | changes))
    return folder


def smooth_picture(width: int, height: int) -> Image.Image:
    return Image.radial_gradient("L").resize((width, height)).convert("RGB")


def test_pixels_of_any_size_are_seen_as_the_picture_is(tiny_model: Path) -> None:
    clip, image = Clip(tiny_model / "clip"), smooth_picture(300, 200)
    cosine = clip.vectors(rgb_pixels(image)[None]) @ clip.images([image])[0]
    assert float(cosine) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (150, 331), (96, 96)])
def test_a_clip_that_crops_crops_pixels_too(cropping_clip: Path, size: tuple[int, int]) -> None:
    clip, image = Clip(cropping_clip), smooth_picture(*size)
    seen = clip._at_its_size(rgb_pixels(image)[None])
    assert seen.shape == (1, 3, 96, 96)
    assert float((seen - clip.pixels([image])).abs().max()) < 3 / 255  # Pillow rounds twice


def test_the_gradient_of_the_cosine_reaches_the_pixels(tiny_model: Path) -> None:
    clip = Clip(tiny_model / "clip")
    pixels = torch.rand(2, 3, 32, 64, requires_grad=True)
    clip.cosines(pixels, ["'a'", "'b'"]).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.abs().sum(dim=(1, 2, 3)) > 0).all()
    assert all(weight.grad is None for weight in clip.model.parameters())
