"""Segmenters of latents: TextDiffuser's loads, what is none is named, one of our own learns."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from cluster.config import build, read_yaml
from cluster.exit_codes import ExitCode
from tests.conftest import CHECKOUT, load_tiny
from trainer.config import TrainConfig
from trainer.data.characters import CLASSES
from trainer.data.config import WordsConfig
from trainer.data.shards import write_shards
from trainer.data.words import draw_sample
from trainer.models.segmenter import Segmenter, latent_labels, load_segmenter, save_segmenter
from trainer.segmenter.__main__ import train
from trainer.segmenter.config import SegmenterConfig
from trainer.segmenter.training import batches_of, measure, open_samples, train_segmenter

# (in, out) channels of each pair of convolutions of TextDiffuser's character_aware_loss_unet.pth.
PAIRS = {
    "inc.double_conv": (4, 64, 64),
    "down1.maxpool_conv.1.double_conv": (64, 128, 128),
    "down2.maxpool_conv.1.double_conv": (128, 256, 256),
    "down3.maxpool_conv.1.double_conv": (256, 512, 512),
    "down4.maxpool_conv.1.double_conv": (512, 512, 512),
    "up1.conv.double_conv": (1024, 512, 256),
    "up2.conv.double_conv": (512, 256, 128),
    "up3.conv.double_conv": (256, 128, 64),
    "up4.conv.double_conv": (128, 64, 64),
}


def published() -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of TextDiffuser's file."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, widths in PAIRS.items():
        for place, (before, after) in zip((0, 3), pairwise(widths), strict=True):
            shape = (after, before, 3, 3)
            tensors[f"{name}.{place}.weight"] = 0.05 * torch.randn(shape, generator=generator)
            tensors[f"{name}.{place}.bias"] = torch.zeros(after)
            for field in ("weight", "running_var"):
                tensors[f"{name}.{place + 1}.{field}"] = torch.ones(after)
            for field in ("bias", "running_mean"):
                tensors[f"{name}.{place + 1}.{field}"] = torch.zeros(after)
            tensors[f"{name}.{place + 1}.num_batches_tracked"] = torch.tensor(7)
    tensors["outc.conv.weight"] = torch.randn(96, 64, 1, 1, generator=generator)
    tensors["outc.conv.bias"] = torch.zeros(96)
    return tensors


@pytest.fixture(scope="module")
def textdiffuser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as TextDiffuser publishes it: from DataParallel, a pickle of weights alone."""
    path = tmp_path_factory.mktemp("textdiffuser") / "character_aware_loss_unet.pth"
    torch.save({f"module.{name}": tensor for name, tensor in published().items()}, path)
    return path


def test_textdiffusers_file_loads_and_answers_for_every_latent(textdiffuser: Path) -> None:
    segmenter = load_segmenter(textdiffuser, latent_channels=4)
    assert segmenter.state_dict().keys() == published().keys()
    assert not segmenter.training
    assert not any(weight.requires_grad for weight in segmenter.parameters())
    assert segmenter(torch.randn(1, 4, 64, 64)).shape == (1, CLASSES, 64, 64)


def _pair(tensors: dict[str, Tensor], name: str, features: Tensor) -> Tensor:
    for place in (0, 3):
        convolution, norm = f"{name}.double_conv.{place}", f"{name}.double_conv.{place + 1}"
        features = F.conv2d(
            features, tensors[f"{convolution}.weight"], tensors[f"{convolution}.bias"], padding=1
        )
        fields = ("running_mean", "running_var", "weight", "bias")
        features = F.relu(F.batch_norm(features, *(tensors[f"{norm}.{f}"] for f in fields)))
    return features


def test_the_answer_is_that_of_the_u_net_written_out(textdiffuser: Path) -> None:
    tensors = published()
    latents = torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(0))
    passed = [_pair(tensors, "inc", latents)]
    for level in (1, 2, 3, 4):
        halved = F.max_pool2d(passed[-1], 2)
        passed.append(_pair(tensors, f"down{level}.maxpool_conv.1", halved))
    features = passed.pop()
    for level in (1, 2, 3, 4):
        grown = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        features = _pair(tensors, f"up{level}.conv", torch.cat([passed.pop(), grown], dim=1))
    wanted = F.conv2d(features, tensors["outc.conv.weight"], tensors["outc.conv.bias"])
    answer = load_segmenter(textdiffuser, latent_channels=4)(latents)
    torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (4, 12), (7, 9)])
def test_grids_of_any_size_keep_their_size(textdiffuser: Path, size: tuple[int, int]) -> None:
    segmenter = load_segmenter(textdiffuser, latent_channels=4)
    answer = segmenter(torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0)))
    assert answer.shape == (2, CLASSES, *size)
    assert answer.isfinite().all()


def _without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in published().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv.weight": torch.ones(1)}, "it lacks inc.double_conv.0.weight"),
        (_without("up2.conv.double_conv.3.bias"), "it lacks up2.conv.double_conv.3.bias"),
        (published() | {"up1.up.weight": torch.ones(1)}, "it has up1.up.weight besides"),
        (
            published() | {"outc.conv.weight": torch.ones(26, 64, 1, 1)},
            "outc.conv.weight is 26 x 64 x 1 x 1, where 96 x 64 x 1 x 1 is wanted",
        ),
        (
            published() | {"inc.double_conv.0.weight": torch.ones(64)},
            "its convolutions are not of two dimensions",
        ),
    ],
)
def test_what_is_no_segmenter_is_refused_in_one_line(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    path = tmp_path / "other.pth"
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=f"{path} is no segmenter of characters: {message}$"):
        load_segmenter(path, latent_channels=4)


def test_a_segmenter_of_another_autoencoder_is_refused(textdiffuser: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"latents of 4 channels, and the model's have 8: train"):
        load_segmenter(textdiffuser, latent_channels=8)
    with pytest.raises(ValueError, match=r"the segmenter .*none\.pth does not exist"):
        load_segmenter(tmp_path / "none.pth", latent_channels=4)


def test_our_own_file_has_the_same_names_and_half_the_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(8, (16, 24)).eval()
    path = tmp_path / "own.safetensors"
    save_segmenter(segmenter, path)
    again = load_segmenter(path, latent_channels=8)
    latents = torch.randn(2, 8, 4, 12)
    torch.testing.assert_close(again(latents), segmenter(latents), rtol=0, atol=2e-3)
    assert path.stat().st_size < 2.3 * sum(w.numel() for w in segmenter.parameters())


def test_a_latent_has_the_label_of_its_first_pixel() -> None:
    characters = torch.arange(64).reshape(1, 8, 8)
    assert latent_labels(characters, (2, 4)).tolist() == [[[0, 2, 4, 6], [32, 34, 36, 38]]]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """What trains for seconds: short words in one style, on the shipped autoencoder."""
    return {
        "model": str(CHECKOUT / "assets" / "mini"),
        "device": "cpu",
        "data": {
            "path": str(tmp_path / "words"),
            "words": {
                "samples": 256,
                "width": 64,
                "max_letters": 3,
                "faces": ["sans"],
                "inks": ["black"],
                "papers": ["white"],
                "backgrounds": ["plain"],
                "shift_px": 0,
            },
        },
        "out": str(tmp_path / "segmenter.safetensors"),
        "widths": [32],
        "steps": 50,
        "batch": 16,
        "lr": 8e-3,
        "held_out": 64,
    }


def test_a_segmenter_learns_to_tell_letters_in_seconds(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = build(SegmenterConfig, settings)
    train(config)
    assert "held-out samples: background 9" in capsys.readouterr().out
    family = load_tiny(CHECKOUT / "assets" / "mini")
    segmenter = load_segmenter(config.out, latent_channels=8)
    found = measure(segmenter, config, family, open_samples(config))
    assert found.latents == 64 * 4 * 8
    assert found.background > 0.97
    assert found.characters > 0.3  # of 26 letters, where only paper would have 0


def test_training_is_the_same_each_time(settings: dict[str, Any], shards: Path) -> None:
    changes = {"data": {"path": str(shards)}, "steps": 2, "held_out": 8}
    config = build(SegmenterConfig, settings | changes)
    family = load_tiny(CHECKOUT / "assets" / "mini")
    first, again = (train_segmenter(config, family, open_samples(config)) for _ in range(2))
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_held_out_or_does_not_tell_its_characters_is_not_trained_on(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    drawn = (draw_sample(WordsConfig(samples=24, random_words=1), number) for number in range(24))
    some = (s._replace(characters=None) if n % 3 else s for n, s in enumerate(drawn))
    write_shards(some, tmp_path / "some", {})
    changes = {"data": {"path": str(tmp_path / "some")}, "held_out": 4, "batch": 4}
    config = build(SegmenterConfig, settings | changes)
    samples = open_samples(config)
    assert len(set(samples.held_out)) == 4
    assert not any(number % 3 for number in samples.held_out)
    batches = islice(batches_of(config, samples), 3)
    trained = {caption for batch in batches for caption in batch.captions}
    rest = set(range(0, 24, 3)) - set(samples.held_out.tolist())
    assert trained == {samples.shards.caption(number) for number in rest}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"widths": []}, "widths must be 1 or more channels each"),
        ({"out": "segmenter.pth"}, "out must be a .safetensors file, got segmenter.pth"),
        ({"width": [32]}, "width is not a key: did you mean widths?"),
        ({"data": {"path": "words", "cache": "encoded"}}, "data.cache is not read for a segmenter"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(SegmenterConfig, settings | changes)


def test_samples_that_do_not_tell_their_characters_are_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    plain = (
        draw_sample(WordsConfig(samples=4), number)._replace(characters=None) for number in range(4)
    )
    write_shards(plain, tmp_path / "plain", {})
    config = build(SegmenterConfig, settings | {"data": {"path": str(tmp_path / "plain")}})
    with pytest.raises(
        ValueError, match=r"which character is where \(charseg.png\), and data.path"
    ):
        open_samples(config)


def test_more_held_out_samples_than_half_are_refused(
    settings: dict[str, Any], shards: Path
) -> None:
    config = build(SegmenterConfig, settings | {"data": {"path": str(shards)}, "held_out": 33})
    with pytest.raises(ValueError, match="held_out 33 is more than half of the 64 samples in"):
        open_samples(config)


def test_a_mistake_is_one_line_before_anything_is_drawn(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    Path(settings["out"]).touch()
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = [
        sys.executable,
        "-m",
        "trainer.segmenter",
        "--config",
        str(tmp_path / "settings.yaml"),
    ]
    told = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert told.returncode == ExitCode.BAD_INPUT
    assert (
        told.stderr
        == f"error: out {settings['out']} is there already: name a new file, or remove it\n"
    )
    assert not (tmp_path / "words").exists()


def test_the_shipped_segmenter_reads_the_style_that_the_mini_recipe_teaches() -> None:
    recipe = read_yaml(CHECKOUT / "recipes" / "segmenter" / "mini.yaml")
    config = build(SegmenterConfig, recipe)
    path = CHECKOUT / config.out
    assert path.stat().st_size < 0.6e6
    family, segmenter = load_tiny(CHECKOUT / config.model), load_segmenter(path, latent_channels=8)
    style = read_yaml(CHECKOUT / "recipes" / "mini.yaml")["train"]
    words = build(TrainConfig, style, "train").data.words
    assert words is not None
    words = replace(words, split="held_out", random_words=0.0, seed=1)
    drawn = [draw_sample(words, number) for number in range(32)]
    images = torch.stack([torch.tensor(np.array(s.image)).permute(2, 0, 1) for s in drawn])
    characters = torch.stack([torch.tensor(np.array(s.characters)).long() for s in drawn])
    mean, _ = family.encode_posterior(images)
    told = segmenter(family.scale_latents(mean)).argmax(dim=1)
    labels = latent_labels(characters, told.shape[1:])
    assert (told == labels)[labels == 0].float().mean() > 0.95
    assert (told == labels)[labels > 0].float().mean() > 0.85
