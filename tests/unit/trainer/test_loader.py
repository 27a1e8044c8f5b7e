"""Batches: whatever is broken in the shards, every pass gets its number of samples."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data.buckets import assign_buckets
from trainer.data.config import BucketConfig, DataConfig, Truth
from trainer.data.loader import Batch, Stream, open_batches
from trainer.data.order import Order, sample_at
from trainer.data.shards import ShardFolder, write_shards
from trainer.data.words import Sample

SHAPES = [(96, 64), (64, 96), (64, 64), (200, 150), (30, 30)]
FRAMED = {"resolution": 64, "buckets": BucketConfig(step_px=16), "crop": "random", "flip": 0.5}


def read(
    folder: Path, positions: list[list[int]], truth: Collection[Truth] = (), **keys: Any
) -> list[Batch]:
    """The batches at these positions with seed 7, four samples to a global batch."""
    config = DataConfig(path=folder, **keys)
    stream = Stream(ShardFolder(folder), config, seed=7, global_batch=4, truth=truth)
    return list(open_batches(stream, iter(positions)))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 noisy pictures of five shapes; the mask of each is its own red plane."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(60):
        width, height = SHAPES[number % 5]
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        samples.append(Sample(image, f"{width} x {height}", [], image.getchannel(0)))
    folder = tmp_path_factory.mktemp("data") / "mixed"
    write_shards(samples, folder, {})
    return folder


def spoil(folder: Path, numbers: range, first_byte: int = 0) -> None:
    """Overwrite the pictures of these samples, from a byte on."""
    index = np.load(folder / "index.npy")
    for number in numbers:
        offset, size = (int(value) for value in index[number]["png"])
        with (folder / f"{int(index[number]['shard']):05d}.tar").open("r+b") as shard:
            shard.seek(offset + first_byte)
            shard.write(b"?" * (size - first_byte))


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(shards, folder)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_from_any_number_of_workers(shards: Path, workers: int) -> None:
    folder = ShardFolder(shards)
    wanted = [[0, 1, 2], [63, 64, 65]]  # over the edge of an epoch
    batches = read(shards, wanted, workers=workers)
    assert [batch.positions for batch in batches] == wanted
    for batch in batches:
        assert batch.images.shape == (3, 3, 32, 96)
        assert batch.captions == [
            folder.caption(sample_at(position, seed=7, samples=64)) for position in batch.positions
        ]


def test_a_broken_sample_makes_room_for_the_next_and_is_named(copied: Path) -> None:
    order = [sample_at(position, seed=7, samples=64) for position in range(3)]
    spoil(copied, range(order[1], order[1] + 1))
    (batch,) = read(copied, [[0, 1]])
    folder = ShardFolder(copied)
    assert batch.captions == [folder.caption(order[0]), folder.caption(order[2])]
    (name,) = batch.broken
    assert name.startswith(f"{folder.key(order[1])} (cannot identify image file")


def test_a_shard_that_ends_early_is_a_broken_sample_too(copied: Path) -> None:
    with (copied / "00001.tar").open("r+b") as shard:
        shard.truncate(2000)
    last = next(p for p in range(64) if sample_at(p, seed=7, samples=64) == 63)
    (batch,) = read(copied, [[last]])
    assert "copied/00001.tar:000000063 ends after 0 of" in batch.broken[0]


def test_a_folder_of_broken_samples_only_is_no_accident(copied: Path) -> None:
    spoil(copied, range(64))
    with pytest.raises(ValueError, match="100 samples in a row cannot be read, the last is copied"):
        read(copied, [[0]])


def test_every_batch_is_of_one_bucket_and_every_sample_comes_once(mixed: Path) -> None:
    batches = read(mixed, [list(range(4 * step, 4 * step + 4)) for step in range(15)], **FRAMED)
    assert {tuple(batch.images.shape[2:]) for batch in batches} == {(48, 80), (80, 48), (64, 64)}
    captions = [caption for batch in batches for caption in batch.captions]
    assert {caption: captions.count(caption) for caption in captions} == {
        f"{width} x {height}": 12 for width, height in SHAPES
    }


def test_the_sizes_are_those_that_sdxl_is_told(mixed: Path) -> None:
    for batch in read(mixed, [[4 * step] for step in range(15)], **FRAMED):
        (sizes,) = batch.sizes.tolist()
        height, width, top, left, *target = sizes
        assert batch.captions == [f"{width} x {height}"]
        assert target == list(batch.images.shape[2:])
        assert top == 0 or left == 0  # a frame touches two sides of its picture


def test_a_mask_goes_where_its_picture_goes(mixed: Path) -> None:
    for batch in read(mixed, [[4 * step] for step in range(15)], truth=["masks"], **FRAMED):
        assert batch.masks is not None
        red = batch.images[:, :1].float() / 255
        assert (batch.masks - red).abs().max() < 0.02  # rounding


def test_masks_are_read_only_when_asked_for(mixed: Path) -> None:
    (batch,) = read(mixed, [[0]], **FRAMED)
    assert batch.masks is None


def test_what_a_sample_looks_like_depends_on_its_position_alone(mixed: Path) -> None:
    together = read(mixed, [[0, 1, 2, 3], [4, 5, 6, 7]], **FRAMED)
    (alone,) = read(mixed, [[6]], **FRAMED)
    assert torch.equal(together[1].images[2], alone.images[0])
    assert torch.equal(together[1].sizes[2], alone.sizes[0])


def test_a_broken_sample_changes_no_other_one_and_its_bucket_stands_in(
    mixed: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "mixed"
    shutil.copytree(mixed, copied)
    whole = read(mixed, [[p] for p in range(24)], **FRAMED)
    sizes = np.array([SHAPES[number % 5] for number in range(60)])
    buckets = assign_buckets(sizes, DataConfig(path=mixed, **FRAMED))
    order = Order(buckets, seed=7, global_batch=4)
    broken = order.sample(order.place(9))
    spoil(copied, range(broken, broken + 1), first_byte=60)
    spoiled = read(copied, [[p] for p in range(24)], **FRAMED)
    changed = [p for p in range(24) if not torch.equal(whole[p].images, spoiled[p].images)]
    assert changed == [9]
    assert spoiled[9].images.shape == whole[9].images.shape
    assert [bool(batch.broken) for batch in spoiled] == [p == 9 for p in range(24)]


def test_pictures_of_many_sizes_ask_for_a_resolution(mixed: Path) -> None:
    with pytest.raises(ValueError, match=r"as 96 x 64 and 64 x 96 pixels: set train\.data\.res"):
        read(mixed, [[0]])
