"""Frames: one map for a picture, its mask and its words, and chance that a position fixes."""

import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from trainer.data.config import BucketConfig, DataConfig
from trainer.data.framing import Frame, Size, choose_frame, frame_chance, spoils_text


def frame(
    source: tuple[int, int],
    size: tuple[int, int],
    crop: Literal["center", "random"] = "center",
    flip: float = 0.0,
    position: int = 0,
) -> Frame:
    chance = frame_chance(0, position)
    return choose_frame(Size(*source), Size(*size), crop=crop, flip=flip, chance=chance)


def test_a_worked_case() -> None:
    found = frame((1000, 600), (512, 512))
    assert (found.left, found.top, found.box) == (200, 0, (600, 600))
    # The picture is scaled by 512 / 600: 200 pixels are 170.67.
    assert found.conditioning == (600, 1000, 0, 171, 512, 512)
    assert found.move([(200, 0), (800, 600), (500, 150)]).tolist() == [
        [0, 0], [512, 512], [256, 128]
    ]  # fmt: skip


def test_a_mirrored_frame_mirrors_words_and_the_crop() -> None:
    found = choose_frame(
        Size(100, 50), Size(50, 50), crop="random", flip=1.0, chance=random.Random(1)
    )
    assert found.left not in (0, 25)
    # What was cut away at the right is now at the left.
    assert found.conditioning[3] == 50 - found.left
    assert found.move([(found.left, 0)]).tolist() == [[50, 0]]


@pytest.mark.parametrize("source", [(1, 1), (7, 3), (64, 96), (1000, 37), (37, 1000)])
def test_the_box_is_the_largest_of_the_shape_that_lies_in_the_picture(
    source: tuple[int, int],
) -> None:
    for position in range(20):
        found = frame(source, (96, 64), "random", position=position)
        assert 0 <= found.left <= source[0] - found.box.width
        assert 0 <= found.top <= source[1] - found.box.height
        assert found.box.width == source[0] or found.box.height == source[1]
        # To a pixel.
        assert abs(found.box.width - found.box.height * 96 / 64) <= 0.75


def test_random_crops_reach_every_place_and_half_are_mirrored() -> None:
    frames = [frame((40, 20), (20, 20), "random", 0.5, position) for position in range(400)]
    assert {found.left for found in frames} == set(range(21))
    assert 160 < sum(found.flip for found in frames) < 240


def test_a_place_in_the_stream_fixes_the_frame() -> None:
    frames = [frame((400, 20), (20, 20), "random", 0.5, position) for position in (5, 6, 5)]
    assert frames[0] == frames[2] != frames[1]


def test_mirroring_moves_no_crop() -> None:
    plain, mirrored = (
        [frame((400, 20), (20, 20), "random", flip, position).left for position in range(20)]
        for flip in (0.0, 1.0)
    )
    assert plain == mirrored


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, None),
        ({"flip": 0.5}, "flip 0.5 mirrors letters"),
        ({"resolution": 64, "crop": "random"}, "crop random cuts words"),
    ],
)
def test_a_config_that_spoils_words_is_warned_of(keys: dict[str, Any], problem: str | None) -> None:
    config = DataConfig(path=Path("d"), **keys)
    warning = spoils_text(config, has_words=True)
    assert warning == problem or (problem is not None and problem in str(warning))
    assert spoils_text(config, has_words=False) is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"flip": 2.0}, "flip must be 0 to 1, got 2"),
        ({"resolution": 0}, "resolution must be at least 1, got 0"),
        ({"crop": "random"}, "crop needs a resolution"),
        ({"buckets": BucketConfig()}, "buckets needs a resolution"),
        ({"resolution": 64, "max_upscale": 0.5}, "max_upscale must be 1 or more, got 0.5"),
        (
            {"resolution": 500, "buckets": BucketConfig()},
            r"500 must be a multiple of buckets\.step_px 64: take 448 or 512",
        ),
    ],
)
def test_a_frame_that_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(path=Path("d"), **keys)


def test_points_outside_the_frame_stay_outside() -> None:
    assert np.array_equal(frame((40, 20), (20, 20)).move([(0, 0)]), [[-10, 0]])
