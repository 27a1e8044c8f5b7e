"""LPIPS against its authors' package, on the same random trunk."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.peers import peer
from trainer.models.lpips import Lpips


def save_trunk(reference: Any, path: Path) -> Path:
    """The reference's trunk as torchvision's file of weights holds it, with a classifier."""
    names = (name.split(".") for name in reference.net.state_dict())
    weights = {
        f"features.{place}.{kind}": reference.net.state_dict()[f"{part}.{place}.{kind}"]
        for part, place, kind in names
    }
    torch.save({**weights, "classifier.1.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_distance_and_gradient_are_those_of_the_lpips_package(trunk: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = peer("lpips").LPIPS(net=trunk, pnet_rand=True, verbose=False).eval()
    ours = Lpips(trunk, save_trunk(reference, tmp_path / "trunk.pth"))
    first, second = torch.rand(2, 3, 64, 80, requires_grad=True), torch.rand(2, 3, 64, 80)

    theirs = reference(first, second, normalize=True).flatten()
    (their_gradient,) = torch.autograd.grad(theirs.sum(), first)
    found = ours(first, second)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=0)
    found.sum().backward()
    assert first.grad is not None
    assert float(first.grad.abs().sum()) > 0
    torch.testing.assert_close(first.grad, their_gradient, rtol=1e-3, atol=1e-6)


def test_equal_pictures_are_no_way_apart_and_train_without_nan(tmp_path: Path) -> None:
    reference = peer("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
    ours = Lpips("alex", save_trunk(reference, tmp_path / "trunk.pth"))
    black = torch.zeros(1, 3, 64, 64, requires_grad=True)
    distance = ours(black, black.detach())
    distance.sum().backward()
    assert distance.tolist() == [0]
    assert black.grad is not None
    assert black.grad.isfinite().all()


def test_a_file_of_another_network_is_told(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no trunk of LPIPS in torchvision's layout"):
        Lpips("alex", tmp_path / "other.pth")
