"""MARIO: pictures with words and letters, some of the pictures missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.trainer.sources import REAL_SAMPLES, needs_real_samples, picture
from trainer.data.build import build
from trainer.data.config import DataConfig, MarioConfig
from trainer.data.shards import ShardFolder
from trainer.data.words import Word

OCR = "Open! 128,0,256,0,256,256,128,256 0.9\ndoor -5,500,532,500,532,512,-5,512 0.2\n"


def write_sample(root: Path, name: str, ocr: str = OCR, letters: bool = True) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "image.jpg").write_bytes(picture("jpeg", 64, 32))
    (folder / "caption.txt").write_text("an open door")
    (folder / "ocr.txt").write_text(ocr)
    (folder / "info.json").write_text(json.dumps({"NSFW": "UNLIKELY"}))
    if letters:
        characters = np.zeros((256, 256), np.int64)
        characters[:, 128:] = 95
        np.save(folder / "charseg.npy", characters)
    return folder


def built(tmp_path: Path, **keys: Any) -> ShardFolder:
    config = DataConfig(
        path=tmp_path / "shards", mario=MarioConfig(path=tmp_path / "mario", **keys)
    )
    build(config)
    return ShardFolder(config.path)


def test_words_come_in_the_pixels_of_their_picture(tmp_path: Path) -> None:
    write_sample(tmp_path / "mario", "06269/062692210")
    shards = built(tmp_path)
    assert shards.caption(0) == "an open door"
    assert shards.words(0) == [
        Word(text="Open!", box=((16, 0), (32, 0), (32, 16), (16, 16))),
        Word(text="door", box=((0, 31), (64, 31), (64, 32), (0, 32))),
    ]
    assert json.loads(shards.read(0, "json"))["metadata"] == {"NSFW": "UNLIKELY"}
    assert shards.has_text_truth


def test_words_that_the_ocr_was_unsure_of_are_not_known(tmp_path: Path) -> None:
    write_sample(tmp_path / "mario", "06269/062692210")
    assert [word.text for word in built(tmp_path, min_confidence=0.5).words(0)] == ["Open!"]


def test_the_mask_is_that_of_the_letters(tmp_path: Path) -> None:
    write_sample(tmp_path / "mario", "06269/062692210")
    mask = built(tmp_path).mask(0)
    assert mask is not None
    wanted = np.zeros((32, 64), np.uint8)
    wanted[:, 32:] = 255
    assert np.array_equal(np.asarray(mask), wanted)


def test_without_letters_the_mask_is_that_of_the_boxes(tmp_path: Path) -> None:
    ocr = "Open! 128,0,256,0,256,256,128,256 0.9"
    write_sample(tmp_path / "mario", "06269/062692210", ocr, letters=False)
    mask = built(tmp_path).mask(0)
    assert mask is not None
    assert mask.getbbox() == (16, 0, 33, 17)  # with its edge


def test_missing_pictures_and_broken_records_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "mario"
    write_sample(root, "06269/062690000")
    (write_sample(root, "06269/062690001") / "image.jpg").unlink()
    (write_sample(root, "06269/062690002") / "caption.txt").unlink()
    write_sample(root, "06269/062690003", "word without corners")
    letters = write_sample(root, "06269/062690004") / "charseg.npy"
    np.save(letters, np.array([{"any": "object"}]), allow_pickle=True)
    np.save(write_sample(root, "06269/062690005") / "charseg.npy", np.full((9, 9), 96))
    (write_sample(root, "06269/062690006") / "info.json").write_text("{")
    (source,) = built(tmp_path).manifest["sources"]
    assert source["samples"] == 1
    assert source["left_out"] == {
        "no picture": 1,
        "no caption": 1,
        "ocr.txt cannot be read": 1,
        "charseg.npy cannot be read": 2,
        "info.json cannot be read": 1,
    }


def test_the_index_says_which_samples_are_taken(tmp_path: Path) -> None:
    for name in ("06269/062690000", "06269/062690001"):
        write_sample(tmp_path / "mario", name)
    index = tmp_path / "index.txt"
    index.write_text("06269_062690001\n06269_062699999\n")
    shards = built(tmp_path, index=index)
    assert shards.key(0) == "shards/00000.tar:06269_062690001"
    assert shards.manifest["sources"][0]["left_out"] == {"no folder": 1}


def test_samples_lie_at_any_depth_with_and_without_an_index(tmp_path: Path) -> None:
    names = ["0/00000/000000012", "0/00001/000000012", "1_1/00002/000000012"]
    for name in names:
        write_sample(tmp_path / "mario", name)
    shards = built(tmp_path)
    assert [shards.key(n) for n in range(len(shards))] == [
        f"shards/00000.tar:{name.replace('/', '_')}" for name in names
    ]
    index = tmp_path / "index.txt"
    index.write_text("\n".join(names[1:]))
    (tmp_path / "again").mkdir()
    config = MarioConfig(path=tmp_path / "mario", index=index)
    assert "built 2 samples" in build(DataConfig(path=tmp_path / "again", mario=config))


def test_no_line_of_the_index_leads_out_of_the_folder(tmp_path: Path) -> None:
    write_sample(tmp_path / "mario", "06269/062690000")
    for line in (".._secret", "../secret", "/etc/secret"):
        (tmp_path / "index.txt").write_text(f"06269_062690000\n{line}\n")
        with pytest.raises(ValueError, match=r"index\.txt line 2 must be FOLDER_KEY"):
            built(tmp_path, index=tmp_path / "index.txt")


@needs_real_samples
def test_real_samples_read(tmp_path: Path) -> None:
    root = REAL_SAMPLES / "mario-laion-example"
    config = MarioConfig(path=root, index=root / "index.txt")
    build(DataConfig(path=tmp_path / "shards", mario=config))
    shards = ShardFolder(tmp_path / "shards")
    assert shards.sizes.tolist() == [[512, 512]] * 3
    assert [word.text for word in shards.words(2)] == ["VH-EZT"]
    mask = shards.mask(2)
    assert mask is not None
    assert mask.size == (512, 512)
