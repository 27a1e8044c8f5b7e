"""The samples of a run: what is kept from training, and what a recipe asks of them in vain."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import train_config
from trainer.config import TrainConfig, ValidationConfig
from trainer.data.build import build
from trainer.data.config import DataConfig, ImageFolderConfig
from trainer.data.order import rank_positions
from trainer.data.samples import open_samples
from trainer.objectives.config import ObjectiveConfig


def recipe(shards: Path, validation: ValidationConfig) -> TrainConfig:
    config: TrainConfig = train_config(Path("none"), validation=validation, global_batch=4)
    return replace(config, data=DataConfig(path=shards))


def test_samples_to_validate_on_are_not_trained_on(shards: Path) -> None:
    samples = open_samples(recipe(shards, ValidationConfig(samples=16)))
    validated = [p for batch in samples.validation_batches(8) for p in batch.positions]
    assert len(validated) == 16
    epoch = range(48)  # the 64 samples but 16
    trained = samples.names(epoch)
    assert len(set(trained)) == 48
    assert not set(trained) & {samples.training.key(number) for number in validated}


def test_samples_of_another_folder_leave_all_to_train_on(shards: Path) -> None:
    samples = open_samples(recipe(shards, ValidationConfig(samples=64, path=shards)))
    assert len(set(samples.names(range(64)))) == 64
    assert len(samples.validated) == 64


def test_too_many_to_validate_on_are_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match="samples 33 is more than half of the 64 samples there"):
        open_samples(recipe(shards, ValidationConfig(samples=33)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of which nobody knows where they show text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["file_name,text"]
    for number in range(4):
        Image.fromarray(np.full((32, 32, 3), 60 * number, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,a photo")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    data = DataConfig(path=tmp_path / "shards", imagefolder=ImageFolderConfig(path=folder))
    build(data)
    return data.path


def test_a_mask_is_refused_where_nobody_knows_the_text(photos: Path) -> None:
    config = train_config(
        Path("none"),
        objective=ObjectiveConfig(mask_weight=3),
        data=DataConfig(path=photos),
    )
    with pytest.raises(ValueError, match="mask_weight 3 needs to know where the text is"):
        open_samples(config)
    assert open_samples(train_config(Path("none"), data=DataConfig(path=photos))).warning is None


def test_mirrored_words_are_warned_of(shards: Path) -> None:
    config = train_config(Path("none"), data=DataConfig(path=shards, flip=0.5))
    warning = open_samples(config).warning
    assert warning is not None
    assert "mirrors letters" in warning


def _all(batches: Iterable[list[int]]) -> list[int]:
    return [position for batch in batches for position in batch]


def test_every_epoch_covers_what_is_not_held_out(shards: Path) -> None:
    samples = open_samples(recipe(shards, ValidationConfig(samples=16)))
    positions = _all(rank_positions(0, 24, global_batch=4, micro_batch=4, rank=0, ranks=1))
    names = samples.names(positions)
    assert sorted(names[:48]) == sorted(names[48:])


def test_a_caption_that_cannot_be_read_does_not_keep_a_run_from_starting(
    shards: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    for source in manifest["sources"]:
        source["knows_text"] = False  # so that captions tell whether there are words
    (broken / "manifest.json").write_text(json.dumps(manifest))
    index = np.load(broken / "index.npy")
    offset, size = (int(value) for value in index[0]["txt"])
    with (broken / "00000.tar").open("r+b") as shard:
        shard.seek(offset)
        shard.write(b"\xff" * size)
    plain = train_config(Path("none"), data=DataConfig(path=broken))
    assert open_samples(plain).warning is None
    mirrored = train_config(Path("none"), data=DataConfig(path=broken, flip=0.5))
    assert "mirrors letters" in str(open_samples(mirrored).warning)
