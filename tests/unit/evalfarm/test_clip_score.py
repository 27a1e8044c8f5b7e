"""CLIPScore against the plain definition, and its absence where there is no CLIP."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from evalfarm.metrics.base import Asked, Batch
from evalfarm.metrics.clip_score import ClipScore
from evalfarm.networks import Networks
from evalfarm.rows import NO_ROWS
from tests.unit.evalfarm.conftest import rows_of
from trainer.models.clip import Clip
from trainer.models.config import NetworksConfig
from trainer.models.digest import weights_digest


def test_the_score_is_a_hundred_times_the_cosine_or_nothing(tiny_model: Path) -> None:
    images = [Image.new("RGB", (96, 32), colour) for colour in ("red", "white", "black", "blue")]
    prompts = ["'a' in red", "'b' in white", "nothing", "'c'"]
    clip = Clip(tiny_model / "clip")
    pairs = zip(images, prompts, strict=True)
    cosines = [float(clip.images([i])[0] @ clip.texts([p])[0]) for i, p in pairs]

    networks = NetworksConfig(clip=str(tiny_model / "clip"))
    asked = [Asked(image=i, prompt=p) for i, p in zip(images, prompts, strict=True)]
    seen = ClipScore("clip", networks).look(Batch(asked, Networks(networks)))
    scores = [one.numbers["score"] for one in seen]
    assert scores == pytest.approx([100 * max(0, cosine) for cosine in cosines], abs=1e-4)


def test_each_mode_has_the_scale_prefix_and_weights_that_it_states(tiny_model: Path) -> None:
    folder = tiny_model / "clip"
    networks = NetworksConfig(clip_b32=str(folder), clip_l14=str(folder))
    clip, image, prompt = Clip(folder), Image.new("RGB", (96, 32), "red"), "'a' in red"
    bare = float(clip.images([image])[0] @ clip.texts([prompt])[0])
    prefixed = float(clip.images([image])[0] @ clip.texts(["A photo depicts 'a' in red"])[0])
    assert abs(bare - prefixed) > 1e-3
    expected = {
        "b32": (100 * max(0, bare), "points"),
        "l14": (100 * max(0, bare), "points"),
        "mario": (max(0, prefixed), "cosine"),
    }
    for mode, (score, unit) in expected.items():
        metric = ClipScore(mode, networks)
        asked = Asked(image=image, prompt=prompt)
        (seen,) = metric.look(Batch([asked], Networks(networks)))
        assert seen.numbers["score"] == pytest.approx(score, rel=1e-5), mode
        assert metric.columns[0].unit == unit
        assert metric.variant == f"{mode}@{weights_digest(folder)[:8]}"
    assert "eval.networks.clip_b32" in str(ClipScore("mario", NetworksConfig()).absent())


def test_a_picture_that_contradicts_its_prompt_scores_nothing(tiny_model: Path) -> None:
    class Opposite:
        def images(self, images: list[Image.Image]) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0], [0.6, 0.8]])

        def texts(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[-1.0, 0.0], [1.0, 0.0]])

    networks = Networks(NetworksConfig(clip=str(tiny_model / "clip")))
    networks.keep("clip", Opposite)
    asked = Asked(image=Image.new("RGB", (8, 8)))
    seen = ClipScore("clip", networks.config).look(Batch([asked, asked], networks))
    scores = [one.numbers["score"] for one in seen]
    assert scores == pytest.approx([0, 60])


def test_the_tower_is_that_of_transformers_own_forward_pass(tiny_model: Path) -> None:
    clip = Clip(tiny_model / "clip")
    image, text = Image.new("RGB", (96, 32), "green"), "'abc' in green"
    tokens = clip.tokenizer([text], padding="max_length", return_tensors="pt")
    pixels = clip.processor([image], return_tensors="pt").pixel_values
    with torch.no_grad():
        logits = clip.model(pixel_values=pixels, **tokens).logits_per_image
        scale = clip.model.logit_scale.exp()
    cosine = float(clip.images([image])[0] @ clip.texts([text])[0])
    assert float(logits / scale) == pytest.approx(cosine, abs=1e-5)


def test_a_caption_that_is_too_long_is_cut(tiny_model: Path) -> None:
    assert Clip(tiny_model / "clip").texts(["a" * 500]).shape == (1, 8)


def test_the_summary_is_the_mean() -> None:
    rows = rows_of([{"score": value} for value in (10.0, 20.0, 60.0)])
    assert ClipScore("clip", NetworksConfig()).summarize(rows, NO_ROWS) == {"score": 30.0}


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (None, "set eval.networks.clip"),
        (
            "/no/such",
            "/no/such does not exist: put it there, or set eval.networks.clip",
        ),
    ],
)
def test_without_a_clip_it_is_absent_with_the_reason(clip: str | None, reason: str) -> None:
    assert ClipScore("clip", NetworksConfig(clip=clip)).absent() == reason


def test_the_variant_names_the_weights(tiny_model: Path) -> None:
    metric = ClipScore("clip", NetworksConfig(clip=str(tiny_model / "clip")))
    assert metric.absent() is None
    assert metric.variant == f"clip@{weights_digest(tiny_model / 'clip')[:8]}"
