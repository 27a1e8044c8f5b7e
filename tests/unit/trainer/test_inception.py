"""The Inception of 2015 against torch-fidelity's, and what it is shown against Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from tests.peers import peer
from trainer.models.inception import MODES, SIDE_PX, Inception
from trainer.models.inception_v3 import InceptionV3

SIZES = [(64, 64), (128, 96), (299, 299), (320, 512)]


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> Inception:
    """The one with random weights."""
    return Inception(inception_file)


def blobs(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture with large shapes and small ones."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    shapes = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    noisy = shapes + chance.normal(0, 20, shapes.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def shown(picture: NDArray[np.uint8], mode: str) -> NDArray[np.float64]:
    """What the network is shown of a picture: height width 3."""
    levels = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    return MODES[mode](levels)[0].permute(1, 2, 0).numpy()


def test_features_and_logits_are_torch_fidelitys(
    inception: Inception, inception_file: Path
) -> None:
    theirs = peer("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=inception_file
    )
    pictures = [blobs(seed, 96, 128) for seed in range(3)]
    expected = theirs(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    found = inception.look([Image.fromarray(picture) for picture in pictures], "tf")
    for ours, wanted in zip(found, expected, strict=True):
        assert (ours - wanted).norm() < 1e-5 * wanted.norm()
        # What pictures have in common is most of it: what tells them apart must be right as well.
        apart, wanted_apart = ours - ours.mean(0), wanted - wanted.mean(0)
        assert (apart - wanted_apart).norm() < 1e-4 * wanted_apart.norm()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_clean_shows_what_pillow_makes_of_each_channel_in_floats(height: int, width: int) -> None:
    picture = blobs(0, height, width)
    channels = [
        Image.fromarray(picture[:, :, channel].astype(np.float32)).resize(
            (SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    expected = (np.stack([np.asarray(c) for c in channels], -1).clip(0, 255) - 128) / 128
    np.testing.assert_allclose(shown(picture, "clean"), expected, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_torch_shows_bilinear_samples_between_the_centres_of_pixels(
    height: int, width: int
) -> None:
    def weights(size: int) -> NDArray[np.float64]:
        places = ((np.arange(SIDE_PX) + 0.5) * size / SIDE_PX - 0.5).clip(0, size - 1)
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))

    picture = blobs(0, height, width)
    rows = np.tensordot(weights(height), picture, 1)
    levels = np.tensordot(rows, weights(width), (1, 1)).transpose(0, 2, 1)
    np.testing.assert_allclose(shown(picture, "torch"), 2 * levels / 255 - 1, atol=1e-9)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tf_shows_what_torch_fidelity_shows(height: int, width: int) -> None:
    module = peer("torch_fidelity.interpolate_compat_tensorflow")
    picture = blobs(0, height, width)
    levels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    theirs = module.interpolate_bilinear_2d_like_tensorflow1x(
        levels, size=(SIDE_PX, SIDE_PX), align_corners=False
    )
    expected = ((theirs - 128) / 128)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown(picture, "tf"), expected, atol=1e-4)


def test_the_modes_show_different_things() -> None:
    picture = blobs(0, 512, 512)
    assert all(
        np.abs(shown(picture, first) - shown(picture, second)).mean() > 0.01
        for first, second in (("clean", "tf"), ("tf", "torch"), ("torch", "clean"))
    )


def test_pictures_of_several_sizes_go_together(inception: Inception) -> None:
    images = [Image.fromarray(blobs(0, height, width)) for height, width in SIZES[:2]]
    together = inception.look(images, "clean").pool
    alone = torch.cat([inception.look([image], "clean").pool for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(alone.std()))


def test_a_gradient_reaches_the_pixels(inception: Inception) -> None:
    levels = torch.from_numpy(blobs(0, 64, 64)).permute(2, 0, 1)[None].float().requires_grad_()
    inception.network(MODES["clean"](levels)).pool.sum().backward()
    assert levels.grad is not None
    assert levels.grad.abs().sum() > 0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_without_the_counters_of_training_reads_the_same(
    inception: Inception, inception_file: Path, tmp_path: Path, suffix: str
) -> None:
    held = torch.load(inception_file, weights_only=True)
    kept = {name: tensor for name, tensor in held.items() if not name.endswith("tracked")}
    path = tmp_path / f"inception{suffix}"
    if suffix == ".pth":
        torch.save(kept, path)
    else:
        save_file(kept, path)
    for name, tensor in Inception(path).network.state_dict().items():
        assert torch.equal(tensor, inception.network.state_dict()[name]), name


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    held = InceptionV3().state_dict()
    torch.save({**held, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "torchvision.pth")
    message = r"torchvision.pth is not the Inception of 2015: fc.weight is \(1000, 2048\), not \(10"
    with pytest.raises(ValueError, match=message):
        Inception(tmp_path / "torchvision.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3.conv.weight is not there, not \(32, "):
        Inception(tmp_path / "other.pth")
