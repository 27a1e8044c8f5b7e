"""What storage can do is measured on it, and nothing stays there."""

import os
from pathlib import Path

import pytest

from cluster import storage


def test_storage_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    measured = storage.measure(tmp_path)
    room = os.statvfs(tmp_path)
    assert 0 < measured["free_bytes"] <= room.f_blocks * room.f_frsize
    assert measured["write_bytes_per_s"] > 0
    assert 0 < measured["rename_s"] < 1
    assert measured["clock_lead_s"] == pytest.approx(0, abs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_server_whose_clock_is_wrong_is_told_by_its_stamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = storage.time.time()
    monkeypatch.setattr(storage.time, "time", lambda: now_s - 90)  # ours is late
    assert storage.measure(tmp_path)["clock_lead_s"] == pytest.approx(90, abs=2)
    monkeypatch.setattr(storage.time, "time", lambda: now_s + 90)
    assert storage.measure(tmp_path)["clock_lead_s"] == pytest.approx(-90, abs=2)


def test_a_folder_that_is_not_there_yet_is_measured_by_the_one_above(tmp_path: Path) -> None:
    assert storage.existing_parent(tmp_path / "runs" / "mini") == tmp_path
