"""Shards: ordinary WebDataset tars in which any sample can be found."""

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset

from cluster.config import to_dict
from cluster.run_folder import verify
from trainer.data.build import build
from trainer.data.config import DataConfig, WordsConfig
from trainer.data.shards import ShardFolder, write_shards
from trainer.data.words import draw_sample

WORDS = WordsConfig(samples=64)


def test_any_sample_is_found_by_its_number(shards: Path) -> None:
    folder = ShardFolder(shards)
    assert len(folder) == 64
    for number in (0, 39, 40, 63):  # at the edges of both shards
        sample = draw_sample(WORDS, number)
        assert folder.caption(number) == sample.caption
        assert np.array_equal(np.asarray(folder.image(number)), np.asarray(sample.image))
    assert folder.key(40) == "words/00001.tar:000000040"


def test_the_ground_truth_travels_with_the_picture(shards: Path) -> None:
    folder, sample = ShardFolder(shards), draw_sample(WORDS, 5)
    truth = json.loads(folder.read(5, "json"))
    assert truth["words"][0]["text"] == sample.words[0].text
    assert truth["words"][0]["box"] == [list(corner) for corner in sample.words[0].box]
    found = folder.characters(5)
    assert found is not None
    assert sample.characters is not None
    assert found.tobytes() == sample.characters.tobytes()
    assert set(folder.manifest["members"]) == {"png", "txt", "json", "mask.png", "charseg.png"}


# webdataset leaves the tars that it reads open.
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_webdataset_reads_the_shards_itself(shards: Path) -> None:
    tars = [str(path) for path in sorted(shards.glob("*.tar"))]
    read = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    gc.collect()
    assert [sample["txt"] for sample in read] == [draw_sample(WORDS, n).caption for n in range(64)]


def test_equal_samples_make_equal_shards(shards: Path, tmp_path: Path) -> None:
    again = DataConfig(path=tmp_path / "again", words=WORDS)
    build(again)
    images = [ShardFolder(folder).read(7, "png") for folder in (shards, again.path)]
    assert images[0] == images[1]
    verify(again.path)


def test_building_again_costs_nothing_and_other_samples_are_refused(tmp_path: Path) -> None:
    config = DataConfig(path=tmp_path / "words", words=WordsConfig(samples=4))
    assert build(config).startswith("drew 4 samples")
    assert build(config).startswith("4 samples are already in")
    other = DataConfig(path=config.path, words=WordsConfig(samples=4, seed=9))
    with pytest.raises(ValueError, match=r"holds other samples \(words\.seed 0, not 9\)"):
        build(other)


def test_a_half_written_folder_is_built_anew(tmp_path: Path) -> None:
    config = DataConfig(path=tmp_path / "words", words=WordsConfig(samples=4))
    half = tmp_path / ".words.tmp"
    half.mkdir()
    (half / "00000.tar").write_bytes(b"half")
    assert build(config).startswith("drew 4 samples")
    assert [path.name for path in tmp_path.iterdir()] == ["words"]


def test_a_folder_without_shards_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"make them with `python -m trainer\.data build`"):
        ShardFolder(tmp_path)


def test_shards_without_pictures_are_refused(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    shutil.copytree(shards, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"members": ["txt"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="holds no pictures: its samples have only txt"):
        ShardFolder(folder)


def test_a_source_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sample is fit to train on: the source is empty"):
        write_shards([], tmp_path / "words", {"words": {}})


def test_the_manifest_says_what_the_samples_were_made_of(tmp_path: Path) -> None:
    config = DataConfig(path=tmp_path / "words", words=WordsConfig(samples=2))
    build(config)
    assert config.words is not None
    assert ShardFolder(config.path).manifest["source"] == {"words": to_dict(config.words)}
