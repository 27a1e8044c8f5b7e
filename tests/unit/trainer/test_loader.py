"""Batches: whatever is broken in the shards, every pass gets its number of samples."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer.data.loader import open_batches
from trainer.data.order import sample_at
from trainer.data.shards import ShardFolder


def spoil(folder: Path, numbers: range) -> None:
    """Overwrite the pictures of these samples."""
    index = np.load(folder / "index.npy")
    for number in numbers:
        offset, size = (int(value) for value in index[number]["png"])
        with (folder / f"{int(index[number]['shard']):05d}.tar").open("r+b") as shard:
            shard.seek(offset)
            shard.write(b"?" * size)


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(shards, folder)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_from_any_number_of_workers(shards: Path, workers: int) -> None:
    folder = ShardFolder(shards)
    wanted = [[0, 1, 2], [63, 64, 65]]  # over the edge of an epoch
    batches = list(open_batches(folder, iter(wanted), seed=7, workers=workers))
    assert [batch.positions for batch in batches] == wanted
    for batch in batches:
        assert batch.images.shape == (3, 3, 32, 96)
        assert batch.captions == [
            folder.caption(sample_at(position, seed=7, samples=64)) for position in batch.positions
        ]


def test_a_broken_sample_makes_room_for_the_next_and_is_named(copied: Path) -> None:
    order = [sample_at(position, seed=7, samples=64) for position in range(3)]
    spoil(copied, range(order[1], order[1] + 1))
    (batch,) = open_batches(ShardFolder(copied), iter([[0, 1]]), seed=7, workers=0)
    folder = ShardFolder(copied)
    assert batch.captions == [folder.caption(order[0]), folder.caption(order[2])]
    (name,) = batch.broken
    assert name.startswith(f"{folder.key(order[1])} (cannot identify image file")


def test_a_shard_that_ends_early_is_a_broken_sample_too(copied: Path) -> None:
    with (copied / "00001.tar").open("r+b") as shard:
        shard.truncate(2000)
    last = next(p for p in range(64) if sample_at(p, seed=7, samples=64) == 63)
    (batch,) = open_batches(ShardFolder(copied), iter([[last]]), seed=7, workers=0)
    assert "copied/00001.tar:000000063 ends after 0 of" in batch.broken[0]


def test_a_folder_of_broken_samples_only_is_no_accident(copied: Path) -> None:
    spoil(copied, range(64))
    with pytest.raises(ValueError, match="100 samples in a row cannot be read, the last is copied"):
        next(open_batches(ShardFolder(copied), iter([[0]]), seed=7, workers=0))
