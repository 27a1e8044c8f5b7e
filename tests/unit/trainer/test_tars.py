"""Tars of strangers: everything in them is found where it lies, or named as broken."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.trainer.sources import picture, write_tar
from trainer.data.tars import UnusableShard, examine, list_samples


def test_samples_are_named_as_webdataset_names_them(tmp_path: Path) -> None:
    files = {"./v1.2/a.b.txt": b"", "v1.2/a.PNG": b"", "v1.2/c.mask.png": b"", "README": b""}
    samples = list_samples(write_tar(tmp_path / "0.tar", files))
    assert {sample.key: set(sample.members) for sample in samples} == {
        "v1.2/a": {"b.txt", "png"},
        "v1.2/c": {"mask.png"},
    }


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"a.png": picture(), "a.txt": b"red"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert [sample.key for sample in list_samples(path)] == ["a"]


def test_what_cannot_be_trained_on_is_counted_by_reason(tmp_path: Path) -> None:
    files = {
        "good.png": picture(),
        "good.txt": "grün".encode(),
        "mute.png": picture(),
        "blank.png": picture(),
        "blank.txt": b" \n",
        "latin.png": picture(),
        "latin.txt": "grün".encode("latin-1"),
        "blind.txt": b"red",
        "page.jpg": b"<html>",
        "page.txt": b"red",
        "small.png": picture(height=9),
        "small.txt": b"red",
        f"{'k' * 300}.txt": b"red",
    }
    path, left_out = write_tar(tmp_path / "0.tar", files), Counter[str]()
    rows = examine(path, list_samples(path), left_out, min_side_px=10)
    assert [bytes(row["key"]) for row in rows] == [b"good"]
    assert (rows[0]["width"], rows[0]["height"]) == (20, 10)
    assert left_out == {
        "no caption": 2,
        "caption is not UTF-8": 1,
        "no picture": 1,
        "cannot identify image file": 1,
        "less than 10 pixels a side": 1,
        "key too long": 1,
    }


def test_a_size_behind_a_long_header_is_found(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "jpeg", icc_profile=bytes(200_000))
    files = {"a.jpg": buffer.getvalue(), "a.txt": b"black"}
    path = write_tar(tmp_path / "0.tar", files)
    rows = examine(path, list_samples(path), Counter())
    assert (rows[0]["width"], rows[0]["height"]) == (30, 20)


@pytest.mark.parametrize("size", [600, 1400, 2048, 5000])
def test_a_truncated_shard_is_named(tmp_path: Path, size: int) -> None:
    path = write_tar(tmp_path / "00007.tar", {f"{n}.txt": b"x" * 700 for n in range(9)})
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(UnusableShard, match=r"00007\.tar is broken at byte \d+ \(.*fetch it again"):
        list_samples(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {f"{n}.txt": b"x" * 700 for n in range(9)})
    data = bytearray(path.read_bytes())
    data[1536 + 150] ^= 0xFF  # in the checksum of the second header
    path.write_bytes(data)
    with pytest.raises(UnusableShard, match="broken at byte 1536"):
        list_samples(path)


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w:gz"):
        pass
    with pytest.raises(UnusableShard, match="is no plain tar"):
        list_samples(tmp_path / "0.tar")
