"""A build of several sources: one index, counted per source."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from cluster.config import build as build_config
from tests.conftest import CHECKOUT, train_config
from tests.unit.trainer.sources import picture, write_download
from trainer.config import TrainConfig
from trainer.data.__main__ import main
from trainer.data.build import build
from trainer.data.check import check
from trainer.data.config import (
    SOURCES,
    DataConfig,
    ImageFolderConfig,
    LaionConfig,
    WebDatasetConfig,
    WordsConfig,
)
from trainer.data.shards import ShardFolder
from trainer.data.sources import READERS


@pytest.fixture
def mixed(tmp_path: Path) -> DataConfig:
    """Three drawn words, two pictures of a folder (one of them broken), two of a tar."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.webp").write_bytes(picture("webp", 40, 60))
    (folder / "b.png").write_bytes(b"nothing")
    rows = [{"file_name": name, "text": name} for name in ("a.webp", "b.png")]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    write_download(tmp_path / "tars", 0, [{}, {}], failed=3)
    return DataConfig(
        path=tmp_path / "shards",
        words=WordsConfig(samples=3),
        imagefolder=ImageFolderConfig(path=folder),
        webdataset=WebDatasetConfig(path=tmp_path / "tars"),
    )


def test_several_sources_make_one_index(mixed: DataConfig) -> None:
    assert build(mixed).splitlines() == [
        f"built 6 samples into {mixed.path}",
        "words: 3",
        "imagefolder: 1; left out: 1 cannot identify image file",
        "webdataset: 2; left out: 3 failed_to_download",
    ]
    shards = ShardFolder(mixed.path)
    assert shards.index["source"].tolist() == [0, 0, 0, 1, 2, 2]
    assert shards.sizes.tolist() == [[96, 32]] * 3 + [[40, 60]] + [[20, 10]] * 2
    assert [shards.image(n).size for n in (0, 3, 5)] == [(96, 32), (40, 60), (20, 10)]
    assert [len(shards.words(n)) for n in (0, 3, 5)] == [1, 0, 0]
    assert shards.has_text_truth
    assert not (mixed.path / "scratch").exists()


def test_a_member_that_a_sample_lacks_is_named(mixed: DataConfig) -> None:
    build(mixed)
    with pytest.raises(OSError, match=r"shards/00001\.tar:000000000 has no mask\.png"):
        ShardFolder(mixed.path).read(3, "mask.png")


def test_every_source_has_a_reader() -> None:
    assert set(READERS) == set(SOURCES) <= set(DataConfig.__dataclass_fields__)


def test_a_folder_of_other_sources_is_refused(mixed: DataConfig) -> None:
    build(mixed)
    other = DataConfig(path=mixed.path, laion=LaionConfig(path=mixed.path.parent / "tars"))
    with pytest.raises(ValueError, match="also words; also imagefolder; also webdataset; no laion"):
        build(other)


def test_metadata_that_changed_since_is_refused(mixed: DataConfig, tmp_path: Path) -> None:
    build(mixed)
    metadata = tmp_path / "pictures" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace('"text": "a', '"text": "A'))
    with pytest.raises(ValueError, match=r"holds other samples \(.*metadata\.jsonl changed\)"):
        build(mixed)


def test_copies_do_without_their_source(mixed: DataConfig, tmp_path: Path) -> None:
    build(mixed)
    shutil.rmtree(tmp_path / "pictures")
    assert "already in" in build(mixed)
    shutil.rmtree(tmp_path / "tars")
    with pytest.raises(ValueError, match=r"tars holds no \.tar files"):
        build(mixed)


def test_paths_of_a_frozen_recipe_are_the_same_source(
    mixed: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(mixed)
    monkeypatch.chdir(mixed.path.parent)
    relative = DataConfig(
        path=Path("shards"),
        words=mixed.words,
        imagefolder=ImageFolderConfig(path=Path("pictures")),
        webdataset=WebDatasetConfig(path=Path("tars")),
    )
    assert "already in" in build(relative)


def test_many_shards_are_read_with_few_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        write_download(tmp_path / "tars", number, [{"caption": str(number)}])
    config = DataConfig(
        path=tmp_path / "shards", webdataset=WebDatasetConfig(path=tmp_path / "tars")
    )
    build(config)
    monkeypatch.setattr("trainer.data.shards.MAX_OPEN_SHARDS", 2)
    shards = ShardFolder(config.path)
    order = np.random.default_rng(0).integers(0, 5, 40).tolist()
    assert [shards.caption(number) for number in order] == [str(number) for number in order]
    assert len(shards._handles) == 2


def test_jobs_travel_to_other_processes(mixed: DataConfig, tmp_path: Path) -> None:
    for name in ("words", "imagefolder", "webdataset"):
        for number, job in enumerate(READERS[name].plan(getattr(mixed, name), tmp_path)):
            there = pickle.loads(pickle.dumps(job))(tmp_path / f"there-{number}.tar")
            here = job(tmp_path / f"here-{number}.tar")
            assert there.rows.tobytes() == here.rows.tobytes()
            assert pickle.loads(pickle.dumps(there)).left_out == here.left_out


def test_check_reports_what_a_run_would_train_on(mixed: DataConfig, tiny_model: Path) -> None:
    build(mixed)
    tar = mixed.path.parent / "tars" / "00000.tar"
    data = tar.read_bytes()
    place = data.index(b"\xff\xda")  # where the pixels of the first JPEG begin
    tar.write_bytes(data[:place] + bytes(100) + data[place + 100 :])
    keys = {"model": str(tiny_model), "steps": 1, "global_batch": 1}
    framing = {"resolution": 32, "flip": 0.5}
    data_keys = {"path": str(mixed.path), "words": {"samples": 3}, **framing}
    report = check(build_config(TrainConfig, {**keys, "data": data_keys}), samples=0)
    for line in (
        "6 samples in 3 shards",
        "left out of webdataset: 3 failed_to_download",
        "read 6 of 6 samples, 1 of them broken",
        "shards/00000.tar:000000000 (cannot be decoded",
        "caption tokens: ",
        "text: words are known of 3 of 5 pictures, 1.0 in each",
        "  below 64  6  100.0%  ██████████████████████████████",
        "  2:1 to 3:1    2  33.3%  ██████████\n",
        "warning: the samples show words, but flip 0.5 mirrors letters: set flip 0\n",
        "32 x 32        6               6.0     55.6%         2",
    ):
        assert line in report, report


def test_check_counts_captions_that_are_too_long(tmp_path: Path, tiny_model: Path) -> None:
    write_download(tmp_path / "tars", 0, [{}, {"caption": "long " * 50}])
    tars = {"path": str(tmp_path / "tars")}
    keys = {
        "model": str(tiny_model),
        "steps": 1,
        "global_batch": 1,
        "data": {"path": str(tmp_path / "shards"), "webdataset": tars},
    }
    config = build_config(TrainConfig, keys)
    build(config.data)
    report = check(config, samples=0)
    assert ": 1 of 2; their ends are not read\nsuch as: long long" in report
    sampled = check(config, samples=1)
    assert "read 1 of 2 samples, 0 of them broken" in sampled


def test_check_finds_the_tokenizer_of_a_hub_name_in_the_cache(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_download(tmp_path / "tars", 0, [{}])
    data = DataConfig(path=tmp_path / "index", webdataset=WebDatasetConfig(path=tmp_path / "tars"))
    build(data)
    config = train_config(Path("some/model"), data=data)
    assert "no tokenizer folder in some/model: counted in words" in check(config, samples=0)
    repository = tmp_path / "hub" / "models--some--model"
    for folder in ("refs", "snapshots"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").symlink_to(tiny_model)
    assert "caption tokens: " in check(config, samples=0)


def test_every_missing_file_of_every_source_is_named_at_once(tmp_path: Path) -> None:
    config = DataConfig(
        path=tmp_path / "all",
        imagefolder=ImageFolderConfig(path=tmp_path / "pictures"),
        laion=LaionConfig(path=tmp_path / "tars", metadata=tmp_path / "meta"),
    )
    with pytest.raises(ValueError, match="not there: ") as refused:
        build(config)
    assert str(refused.value).removeprefix("not there: ").split(", ") == [
        f"train.data.imagefolder.path {tmp_path}/pictures",
        f"train.data.laion.path {tmp_path}/tars",
        f"train.data.laion.metadata {tmp_path}/meta",
    ]


def test_flags_change_the_recipe_of_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["train.data.words.samples=3", f"train.data.path={tmp_path / 'words'}"]
    recipe = str(CHECKOUT / "recipes" / "mini.yaml")
    monkeypatch.setattr(sys, "argv", ["data", "build", "--config", recipe, "--set", *changes])
    assert main() == 0
    assert f"drew 3 samples into {tmp_path / 'words'}" in capsys.readouterr().out


def test_a_build_that_fails_leaves_nothing_behind(mixed: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "tars" / "00000.tar").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"00000\.tar is no plain tar"):
        build(mixed)
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "tars"}
