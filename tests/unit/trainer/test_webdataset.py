"""Tars of img2dataset: indexed where they lie, with its record of what it could not fetch."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.unit.trainer.sources import picture, write_download, write_tar
from trainer.data.build import build
from trainer.data.config import DataConfig, WebDatasetConfig
from trainer.data.shards import ShardFolder


def config_for(tmp_path: Path) -> DataConfig:
    return DataConfig(path=tmp_path / "shards", webdataset=WebDatasetConfig(path=tmp_path / "tars"))


def test_tars_are_indexed_where_they_lie(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    tars = [write_download(tmp_path / "tars", n, [{}, {"caption": "blue"}]) for n in range(2)]
    before = [tar.read_bytes() for tar in tars]
    assert build(config).startswith("built 4 samples into")
    assert [tar.read_bytes() for tar in tars] == before
    assert not list(config.path.glob("*.tar"))
    shards = ShardFolder(config.path)
    assert shards.caption(3) == "blue"
    assert shards.key(3) == "shards/00001.tar:000010001"
    assert shards.image(3).size == tuple(shards.sizes[3]) == (20, 10)


def test_failed_downloads_are_counted(tmp_path: Path) -> None:
    tar = write_download(tmp_path / "tars", 0, [{}], failed=2)
    build(config_for(tmp_path))
    (source,) = ShardFolder(tmp_path / "shards").manifest["sources"]
    assert (source["samples"], source["left_out"]) == (1, {"failed_to_download": 2})
    # Without the record of the shard, by the list of its URLs.
    tar.with_name("00000_stats.json").unlink()
    status = ["success", "failed_to_resize", "failed_to_download", "failed_to_resize"]
    pyarrow.parquet.write_table(pyarrow.table({"status": status}), tar.with_suffix(".parquet"))
    again = DataConfig(path=tmp_path / "again", webdataset=WebDatasetConfig(path=tmp_path / "tars"))
    build(again)
    (source,) = ShardFolder(again.path).manifest["sources"]
    assert source["left_out"] == {"failed_to_download": 1, "failed_to_resize": 2}


def test_a_shard_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    write_download(tmp_path / "tars", 0, [{}])
    (tmp_path / "tars" / "00001.tar").write_bytes(b"half")
    assert "1 shard that is not finished" in build(config_for(tmp_path))


def test_broken_shards_are_named_together(tmp_path: Path) -> None:
    for number in range(3):
        tar = write_download(tmp_path / "tars", number, [{}] * 4)
        if number:
            with tar.open("r+b") as file:
                file.truncate(3000)
    with pytest.raises(
        ValueError, match=r"00001\.tar is broken at byte .*; .*00002\.tar is broken"
    ):
        build(config_for(tmp_path))


def test_a_shard_that_lacks_samples_is_broken(tmp_path: Path) -> None:
    tar = write_download(tmp_path / "tars", 0, [{}, {}])
    write_tar(tar, {"000000000.jpg": picture("jpeg"), "000000000.txt": b"red"})
    with pytest.raises(ValueError, match=r"00000\.tar is broken at byte \d+: it holds 1 of 2"):
        build(config_for(tmp_path))


def test_a_folder_that_changed_since_is_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    write_download(tmp_path / "tars", 0, [{}, {}])
    build(config)
    assert build(config).startswith("2 samples are already in")
    write_download(tmp_path / "tars", 0, [{}] * 40)
    write_download(tmp_path / "tars", 1, [{}])
    with pytest.raises(ValueError, match=r"00000\.tar changed; .*00001\.tar is new"):
        build(config)


def test_a_folder_without_tars_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with pytest.raises(ValueError, match=r"tars holds no \.tar files"):
        build(config_for(tmp_path))


def test_shards_of_our_own_keep_their_words(tmp_path: Path, shards: Path) -> None:
    config = DataConfig(path=tmp_path / "index", webdataset=WebDatasetConfig(path=shards))
    build(config)
    theirs, ours = ShardFolder(config.path), ShardFolder(shards)
    assert theirs.has_text_truth
    assert theirs.words(41) == ours.words(41)
    assert theirs.knows("lines")


@pytest.mark.parametrize("known", ["masks", "lines"])
def test_what_shards_tell_of_their_text_is_told_apart(tmp_path: Path, known: str) -> None:
    words = [{"text": "red", "box": [[0, 0], [9, 0], [9, 5], [0, 5]]}]
    members = {"masks": ("mask.png", picture()), "lines": ("json", json.dumps({"words": words}))}
    name, data = members[known]
    files = {"0.jpg": picture("jpeg"), "0.txt": b"red"}
    files[f"0.{name}"] = data if isinstance(data, bytes) else data.encode()
    write_tar(tmp_path / "tars" / "0.tar", files)
    config = config_for(tmp_path)
    build(config)
    folder = ShardFolder(config.path)
    assert folder.knows("masks")  # drawn from the words, where there is none
    assert folder.knows("lines") == (known == "lines")


def test_a_list_of_urls_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    tar = write_download(tmp_path / "tars", 0, [{}])
    tar.with_suffix(".parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"00000\.parquet cannot be read"):
        build(config_for(tmp_path))
