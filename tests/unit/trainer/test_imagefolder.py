"""Hugging Face's imagefolder: rows become samples, their files go into the shards as they are."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.unit.trainer.sources import picture
from trainer.data.build import build
from trainer.data.config import DataConfig, ImageFolderConfig
from trainer.data.shards import ShardFolder

ROWS = [
    {"file_name": "a.png", "text": "a red field", "artist": "Ada"},
    {"file_name": "deep/b.JPG", "text": "another", "artist": None},
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture("png"))
    (folder / "deep" / "b.JPG").write_bytes(picture("jpeg", 30, 40))
    return folder


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def built(tmp_path: Path, folder: Path, **keys: Any) -> ShardFolder:
    config = DataConfig(
        path=tmp_path / "shards", imagefolder=ImageFolderConfig(path=folder, **keys)
    )
    build(config)
    return ShardFolder(config.path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_kind_of_metadata_is_read(tmp_path: Path, pictures: Path, kind: str) -> None:
    if kind == "jsonl":
        write_rows(pictures, ROWS)
    elif kind == "csv":
        lines = ["file_name,text,artist", 'a.png,"a red field",Ada', "deep/b.JPG,another,"]
        (pictures / "metadata.csv").write_text("\n".join(lines))
    else:
        table = pyarrow.Table.from_pylist(ROWS)
        pyarrow.parquet.write_table(table, pictures / "metadata.parquet")
    shards = built(tmp_path, pictures)
    assert [shards.caption(number) for number in range(2)] == ["a red field", "another"]
    assert shards.sizes.tolist() == [[20, 10], [30, 40]]
    assert shards.read(1, "jpg") == (pictures / "deep" / "b.JPG").read_bytes()  # not encoded anew
    assert shards.image(1).size == (30, 40)
    assert json.loads(shards.read(0, "json"))["metadata"] == {"artist": "Ada"}
    assert not shards.has_text_truth
    assert shards.words(0) == []
    assert shards.mask(0) is None


def test_what_cannot_be_trained_on_is_counted(tmp_path: Path, pictures: Path) -> None:
    (pictures / "page.png").write_text("<html>")
    (pictures / "notes.pdf").write_text("notes")
    bad = ["gone.png", "page.png", "notes.pdf"]
    mute = [{"file_name": "a.png", "text": text} for text in ("", None, [])]
    write_rows(pictures, [*ROWS, *({"file_name": name, "text": "x"} for name in bad), *mute])
    (source,) = built(tmp_path, pictures, min_side_px=12).manifest["sources"]
    assert source["samples"] == 1
    assert source["left_out"] == {
        "less than 12 pixels a side": 1,
        "no picture": 1,
        "cannot identify image file": 1,
        "a file name that ends in .pdf": 1,
        "no caption": 3,
    }


def test_the_first_of_several_captions_is_taken(tmp_path: Path, pictures: Path) -> None:
    write_rows(pictures, [{"file_name": "a.png", "caption": ["", "one", "two"]}])
    assert built(tmp_path, pictures).caption(0) == "one"


def test_any_column_can_be_the_caption(tmp_path: Path, pictures: Path) -> None:
    write_rows(pictures, ROWS[:1])
    assert built(tmp_path, pictures, caption_column="artist").caption(0) == "Ada"


def test_an_unknown_caption_column_is_answered_with_those_there_are(
    tmp_path: Path, pictures: Path
) -> None:
    write_rows(pictures, ROWS)
    wanted = r"no column title: set imagefolder.caption_column to one of file_name, text, artist"
    with pytest.raises(ValueError, match=wanted):
        built(tmp_path, pictures, caption_column="title")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "..\\secret.png", "", "."])
def test_no_row_leads_out_of_the_folder(tmp_path: Path, pictures: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    write_rows(pictures, [{"file_name": name, "text": "mine"}])
    with pytest.raises(ValueError, match=r"metadata\.jsonl row 1 names .*, which is no file in"):
        built(tmp_path, pictures)


def test_splits_are_not_mixed(tmp_path: Path, pictures: Path) -> None:
    for split in ("train", "test"):
        (pictures / split).mkdir()
        write_rows(pictures / split, ROWS)
    with pytest.raises(ValueError, match=r"holds the splits test, train: set imagefolder\.path"):
        built(tmp_path, pictures)


def test_metadata_is_there_and_of_one_kind(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no metadata: it takes one of metadata\.jsonl"):
        built(tmp_path, pictures)
    for name in ("metadata.csv", "metadata.jsonl"):
        (pictures / name).write_text("")
    with pytest.raises(ValueError, match=r"holds metadata\.csv and metadata\.jsonl"):
        built(tmp_path, pictures)
    (pictures / "metadata.csv").unlink()
    (pictures / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n{"file_na')
    with pytest.raises(ValueError, match=r"metadata\.jsonl line 2 is not JSON"):
        built(tmp_path, pictures)
