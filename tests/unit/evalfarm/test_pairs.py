"""SSIM, PSNR and LPIPS of pictures and the real ones of their prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from evalfarm.metrics.base import Asked, Batch, Metric, get
from evalfarm.metrics.pairs import pixel_pairs
from evalfarm.networks import Networks
from evalfarm.rows import NO_ROWS
from tests.peers import peer
from tests.unit.evalfarm.conftest import rows_of
from tests.unit.trainer.test_lpips import save_trunk
from trainer.models.config import NetworksConfig

SPECS = ("ssim", "psnr", "lpips/alex", "lpips/vgg")


def noise(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def values(metric: Metric, pairs: list[tuple[Image.Image, Image.Image | None]]) -> list[float]:
    asked = [Asked(image=image, target=target) for image, target in pairs]
    seen = metric.look(Batch(asked, Networks(metric.networks)))
    return [one.numbers[metric.columns[0].name] for one in seen]


def ssim_by_hand(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Wang et al. 2004, place by place, of one colour, mirrored at its edges."""
    x, y = np.pad(x, 5, mode="reflect"), np.pad(y, 5, mode="reflect")
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * a**2).sum() - mean_a**2, (window * b**2).sum() - mean_b**2
            cov = (window * a * b).sum() - mean_a * mean_b
            likeness = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
            found.append(likeness / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(found))


def test_ssim_is_the_formula_of_the_paper() -> None:
    first, second = noise(0), Image.blend(noise(0), noise(1), 0.4)
    x, y = (np.asarray(image).astype(np.float64) / 255 for image in (first, second))
    expected = np.mean([ssim_by_hand(x[..., colour], y[..., colour]) for colour in range(3)])
    assert values(get("ssim", NetworksConfig()), [(first, second)]) == pytest.approx(
        [expected], rel=1e-4
    )


def test_ssim_of_a_picture_does_not_depend_on_what_else_is_in_the_batch() -> None:
    metric = get("ssim", NetworksConfig())
    grey = Image.blend(noise(0), Image.new("RGB", (64, 48), "gray"), 0.9)  # a narrow range
    together = values(metric, [(grey, noise(1)), (noise(2), noise(3))])
    assert values(metric, [(grey, noise(1))]) == pytest.approx(together[:1], rel=1e-5)


def test_psnr_of_a_known_error_is_its_decibels() -> None:
    metric = get("psnr", NetworksConfig())
    grey, lighter = (Image.new("RGB", (16, 16), (level,) * 3) for level in (100, 151))
    black, white = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), "white")
    found = values(metric, [(grey, lighter), (black, white), (grey, grey)])
    # 51 levels are a fifth of the range: 10 log10(25). All of it: 0. None: the most.
    assert found == pytest.approx([10 * np.log10(25), 0, 100], abs=1e-5)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_is_that_of_its_authors_package(trunk: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = peer("lpips").LPIPS(net=trunk, pnet_rand=True, verbose=False).eval()
    path = save_trunk(reference, tmp_path / "trunk.pth")
    metric = get(f"lpips/{trunk}", NetworksConfig(alexnet=str(path), vgg16=str(path)))
    pairs = [(noise(0), noise(1)), (noise(2), noise(2))]
    batch = Batch([Asked(image=a, target=b) for a, b in pairs], Networks(metric.networks))
    with torch.no_grad():
        expected = reference(*pixel_pairs(batch), normalize=True).flatten()
    found = [seen.numbers["lpips"] for seen in metric.look(batch)]
    assert found == pytest.approx(expected.tolist(), rel=1e-4)
    assert found[0] > found[1] == 0
    assert metric.variant.startswith(f"{trunk}@")


def test_a_real_picture_is_cut_around_its_middle_to_the_size_of_the_other() -> None:
    real = Image.new("RGB", (300, 100), "red")
    real.paste("white", (90, 0, 210, 100))
    asked = Asked(image=Image.new("RGB", (32, 32)), target=real)
    pictures, targets = pixel_pairs(Batch([asked], Networks(NetworksConfig())))
    assert pictures.shape == targets.shape == (1, 3, 32, 32)
    assert float(targets.min()) == 1


def test_a_real_picture_of_the_same_size_stays_as_it_is() -> None:
    real = noise(0)
    asked = Asked(image=noise(1), target=real)
    _, targets = pixel_pairs(Batch([asked], Networks(NetworksConfig())))
    levels = (targets[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert (levels == np.asarray(real)).all()


def test_a_prompt_without_a_real_picture_is_an_error_not_a_score() -> None:
    with pytest.raises(ValueError, match="'' names no real picture to compare with"):
        values(get("psnr", NetworksConfig()), [(noise(0), None)])


@pytest.mark.parametrize("spec", SPECS)
def test_the_summary_is_the_mean_over_pictures(spec: str) -> None:
    metric = get(spec, NetworksConfig())
    name = metric.columns[0].name
    rows = rows_of([{name: value} for value in (0.1, 0.2, 0.6)])
    assert metric.summarize(rows, NO_ROWS) == {name: pytest.approx(0.3)}
    assert metric.references == "pairs"


@pytest.mark.parametrize(("mode", "network"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_without_its_trunk_is_absent_with_the_reason(mode: str, network: str) -> None:
    reason = get(f"lpips/{mode}", NetworksConfig(**{network: "/no/such.pth"})).absent()
    assert reason == f"/no/such.pth does not exist: put it there, or set eval.networks.{network}"
