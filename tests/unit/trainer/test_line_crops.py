"""Lines cut out of pictures: where each pixel comes from, and which lines cannot be cut out."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.objectives.line_crops import crop_line, crop_width, fault_of, place_of

BOX = np.array([[10.0, 8], [42, 8], [42, 20], [10, 20]])


def ramp(height: int, width: int) -> Tensor:
    """A picture whose channels say where each pixel's middle is: x, y, 0."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).double()


def turned(polygon: NDArray[np.float64], degrees: float, scale: float) -> NDArray[np.float64]:
    """A polygon turned clockwise and scaled around its middle."""
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    found: NDArray[np.float64] = (polygon - polygon.mean(axis=0)) @ turn + polygon.mean(axis=0)
    return found


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (25, 0.8), (-70, 1.1), (180, 1), (30, 2.5)])
@pytest.mark.parametrize("height_px", [5, 12, 48])
def test_each_pixel_of_a_crop_comes_from_its_place_between_the_corners(
    degrees: float, scale: float, height_px: int
) -> None:
    corners = turned(BOX + np.array([60, 50]), degrees, scale)
    crop = crop_line(ramp(160, 180), place_of(corners, letters=3), height_px)
    assert crop.shape == (3, height_px, crop_width(place_of(corners, letters=3), height_px))
    top_left, top_right, _, bottom_left = corners
    down = ((np.arange(height_px) + 0.5) / height_px)[:, None, None]
    across = ((np.arange(crop.shape[2]) + 0.5) / crop.shape[2])[:, None]
    expected = top_left + across * (top_right - top_left) + down * (bottom_left - top_left)
    np.testing.assert_allclose(crop[:2].permute(1, 2, 0), expected, atol=1e-9)


def test_an_upright_line_of_its_own_height_is_the_picture_itself() -> None:
    picture = torch.rand(3, 30, 50, generator=torch.Generator().manual_seed(0))
    crop = crop_line(picture, place_of(BOX, letters=3), 12)
    torch.testing.assert_close(crop, picture[:, 8:20, 10:42])


def test_a_word_that_runs_down_is_turned_to_the_left_and_a_tall_letter_is_not() -> None:
    tall = np.array([[10.0, 8], [18, 8], [18, 40], [10, 40]])
    word, letter = (crop_line(ramp(60, 60), place_of(tall, letters=n), 8) for n in (4, 1))
    assert word.shape == (3, 8, 32)
    assert letter.shape == (3, 8, 2)
    # The word's top edge is the right one, from the top down.
    assert word[:2, 0, 0].tolist() == pytest.approx([17.5, 8.5])
    assert word[:2, 0, -1].tolist() == pytest.approx([17.5, 39.5])


def umeyama(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the similarity of Umeyama (1991, equations 40 to 42) takes the points of `source`."""
    near, far = source - source.mean(axis=0), target - target.mean(axis=0)
    left, sizes, right = np.linalg.svd(far.T @ near / 4)
    signs = np.diag([1, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    scale = np.trace(np.diag(sizes) @ signs) / near.var(axis=0).sum()
    moved: NDArray[np.float64] = scale * near @ (left @ signs @ right).T + target.mean(axis=0)
    return moved


def test_corners_that_are_no_rectangle_are_met_as_umeyama_meets_them() -> None:
    corners = np.array([[25.0, 440], [185, 382], [190, 421], [30, 480]])
    place = place_of(corners, letters=9)
    x, y = place.width, place.height
    expected = umeyama(np.array([[0, 0], [x, 0], [x, y], [0, y]]), corners)
    np.testing.assert_allclose(place.corners, expected)
    misfit = np.sqrt(((expected - corners) ** 2).sum(axis=1).mean())
    assert place.misfit == pytest.approx(misfit)


@pytest.mark.parametrize(
    ("polygon", "fault"),
    [
        (BOX, None),
        (turned(BOX, 20, 1.0), None),
        (BOX * (1, 0.2), "too_small"),
        (np.full((4, 2), 9.0), "too_small"),
        (BOX[[1, 0, 3, 2]], "degenerate"),  # mirrored
        (BOX[[0, 1, 3, 2]], "degenerate"),  # crossed
        (BOX - (11, 0), None),  # out by less than a tenth of its height
        (BOX - (20, 0), "outside_frame"),
        (BOX - (0, -30), "outside_frame"),
    ],
)
def test_lines_that_cannot_be_cut_out_are_told(polygon: Any, fault: str | None) -> None:
    assert fault_of(place_of(np.array(polygon), letters=3), 40, 60) == fault


def test_the_gradient_of_a_crop_is_that_of_finite_differences() -> None:
    place = place_of(turned(BOX / 4, 25, 0.9), letters=3)
    picture = torch.rand(3, 8, 14, generator=torch.Generator().manual_seed(0)).double()
    for height_px in (1, 5):  # averaged, and enlarged
        assert torch.autograd.gradcheck(
            lambda pixels, height_px=height_px: crop_line(pixels, place, height_px),
            picture.requires_grad_(),
        )


def test_a_crop_that_shrinks_sees_every_pixel_of_its_line() -> None:
    picture = torch.zeros(3, 100, 220, requires_grad=True)
    box = np.array([[10.0, 5], [210, 5], [210, 95], [10, 95]])
    crop_line(picture, place_of(box, letters=3), 16).sum().backward()
    assert picture.grad is not None
    assert (picture.grad[:, 5:95, 10:210] > 0).all()
