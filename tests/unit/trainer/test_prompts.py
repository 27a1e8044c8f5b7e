"""Lists of prompts: samples without pictures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.sources import REAL_SAMPLES, needs_real_samples
from trainer.data.build import build
from trainer.data.config import DataConfig, ImageFolderConfig, PromptsConfig
from trainer.data.shards import ShardFolder

LISTS = {
    "list.tsv": 'Prompt\tCategory\n"G I G" painted\tArts\na, b\tArts\n',
    "list.csv": 'Prompt,Category\n"""G I G"" painted",Arts\n"a, b",Arts\n',
    "list.json": json.dumps(['"G I G" painted', "a, b"]),
    "bench.json": json.dumps({"data_list": [{"caption": '"G I G" painted'}, {"caption": "a, b"}]}),
    "list.jsonl": '{"prompt": "\\"G I G\\" painted"}\n\n{"prompt": "a, b"}\n',
    "list.txt": '"G I G" painted\na, b\n',
}


def built(tmp_path: Path, path: Path, **keys: Any) -> ShardFolder:
    config = DataConfig(path=tmp_path / "shards", prompts=PromptsConfig(path=path, **keys))
    build(config)
    return ShardFolder(config.path, pictures=False)


@pytest.mark.parametrize("name", LISTS)
def test_every_kind_of_list_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LISTS[name])
    prompts = built(tmp_path, tmp_path / name)
    assert [prompts.caption(n) for n in range(len(prompts))] == ['"G I G" painted', "a, b"]


def test_empty_and_repeated_prompts_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one\n \none \n  two  words\ntwo words\n")
    prompts = built(tmp_path, tmp_path / "list.txt")
    assert [prompts.caption(n) for n in range(len(prompts))] == ["one", "two words"]
    assert prompts.manifest["sources"][0]["left_out"] == {"empty": 1, "repeated": 2}


def test_the_other_columns_come_along(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text(LISTS["list.tsv"])
    prompts = built(tmp_path, tmp_path / "list.tsv", column="Category")
    assert json.loads(prompts.read(0, "json"))["metadata"] == {"Prompt": '"G I G" painted'}


def test_a_list_without_prompts_is_answered_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,words\n1,one\n")
    with pytest.raises(ValueError, match=r"set prompts\.column to one of id, words"):
        built(tmp_path, tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.doc", "", r"list\.doc is none of \.csv, \.tsv"),
        ("list.json", "3", "must hold a list"),
        ("list.json", "[3]", "item 1 must be an object or a text, got int"),
        ("list.csv", "\udcff", "cannot be read: 'utf-8'"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        built(tmp_path, tmp_path / name)


def test_prompts_are_no_pictures_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one\n")
    built(tmp_path, tmp_path / "list.txt")
    with pytest.raises(ValueError, match="holds no pictures: its samples have only json, txt"):
        ShardFolder(tmp_path / "shards")


def test_prompts_are_not_mixed_with_pictures() -> None:
    with pytest.raises(ValueError, match="cannot be mixed with imagefolder"):
        DataConfig(
            path=Path("x"),
            prompts=PromptsConfig(path=Path("y")),
            imagefolder=ImageFolderConfig(path=Path("z")),
        )


@needs_real_samples
def test_partiprompts_reads_whole(tmp_path: Path) -> None:
    prompts = built(tmp_path, REAL_SAMPLES / "PartiPrompts.tsv")
    captions = [prompts.caption(n) for n in range(len(prompts))]
    assert len(captions) == 1632
    assert sum(caption.startswith('"') for caption in captions) == 1
