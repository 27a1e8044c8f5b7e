"""Buckets: shapes that models were made for, and the nearest for each picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.buckets import BucketFill, assign_buckets, bucket_fill, bucket_sizes
from trainer.data.config import BucketConfig, DataConfig


def config(resolution: int = 512, **keys: Any) -> DataConfig:
    return DataConfig(path=Path("d"), resolution=resolution, **keys)


def fill_of(sizes: list[tuple[int, int]], data: DataConfig, batch: int = 2) -> list[BucketFill]:
    return bucket_fill(np.array(sizes), data, batch)


def test_at_1024_the_buckets_are_sdxls() -> None:
    # Its landscape sizes up to 2 to 1 that no other one contains (Podell et al. 2023, appendix I).
    landscape = {
        (1024, 1024), (1088, 960), (1152, 896), (1216, 832), (1280, 768), (1344, 768), (1408, 704)
    }  # fmt: skip
    portrait = {(height, width) for width, height in landscape}
    assert set(bucket_sizes(config(1024, buckets=BucketConfig()))) == landscape | portrait


def test_at_512_the_buckets_suit_stable_diffusion_1() -> None:
    sizes = bucket_sizes(config(512, buckets=BucketConfig()))
    assert sizes == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]


@pytest.mark.parametrize("resolution", [256, 512, 768, 1024])
@pytest.mark.parametrize("step", [8, 32, 64])
def test_no_bucket_is_larger_than_the_square_or_too_long(resolution: int, step: int) -> None:
    buckets = BucketConfig(step_px=step, max_aspect=3)
    for width, height in bucket_sizes(config(resolution, buckets=buckets)):
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert (width + step) * (height + step) > resolution**2
        assert 1 / 3 <= width / height <= 3


def test_a_picture_goes_where_the_least_is_cut_away() -> None:
    data = config(512, buckets=BucketConfig())
    sizes = np.array([(1500, 1000), (1000, 1500), (800, 790), (4000, 3000), (5000, 100)])
    frames = bucket_sizes(data)
    assert [frames[bucket] for bucket in assign_buckets(sizes, data)] == [
        (640, 384), (384, 640), (512, 512), (576, 448), (640, 384)
    ]  # fmt: skip


def test_without_buckets_all_go_to_the_square() -> None:
    (row,) = fill_of([(1024, 1024), (1000, 500), (256, 256)], config())
    assert (row.size, row.samples, row.batches_per_epoch, row.upscaled) == ((512, 512), 3, 1.5, 2)
    assert row.cropped == pytest.approx(0.5 / 3)  # half of the second
    assert row.remark == ""


def test_a_bucket_that_an_epoch_does_not_fill_is_named() -> None:
    sizes = [(512, 512)] * 20 + [(1000, 600)] * 3
    square, wide = fill_of(sizes, config(buckets=BucketConfig()), batch=10)
    assert (square.samples, square.remark) == (20, "")
    assert (wide.size, wide.remark) == ((640, 384), "takes 3.3 epochs to fill a batch")


def test_pictures_that_are_too_small_are_left_out_if_so_wished() -> None:
    sizes = [(512, 512), (400, 400), (100, 100)]
    assert [row.samples for row in fill_of(sizes, config())] == [3]
    kept, left_out = fill_of(sizes, config(max_upscale=1.5))
    assert (kept.samples, kept.upscaled) == (2, 1)
    assert (left_out.size, left_out.samples) == (None, 1)
    assert assign_buckets(np.array(sizes), config(max_upscale=1.5)).tolist() == [0, 0, -1]
    with pytest.raises(ValueError, match="all 1 pictures had to be enlarged by more than max_ups"):
        fill_of([(100, 100)], config(max_upscale=1.5))


def test_without_a_resolution_pictures_stay_as_they_are() -> None:
    (row,) = fill_of([(96, 32)] * 4, DataConfig(path=Path("d")))
    assert (row.size, row.batches_per_epoch, row.cropped, row.upscaled) == ((96, 32), 2, 0, 0)
