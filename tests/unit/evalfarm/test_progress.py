"""How far a farm is, as `status` says it wherever the farm runs."""

import time
from pathlib import Path

import pytest

from cluster.run_folder import read_json, write_json
from evalfarm.farm.progress import (
    FILE,
    Progress,
    Speed,
    progress_lines,
    read_progress,
    write_progress,
)


def checkpoint(name: str, made: int, scored: int) -> Progress:
    return Progress(name=name, expected=48, made=made, scored=scored)


def test_each_checkpoint_with_work_left_is_a_line_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Speed, "per_second", 2.0)
    checkpoints = [checkpoint("base", 48, 48), checkpoint("step 160", 40, 24)]
    write_progress(tmp_path / "mini", checkpoints, Speed())
    assert progress_lines(read_progress(tmp_path)) == [
        "mini: 2.00 pictures/s",
        "  step 160 ████████████░░░░░░░░░░░░ made 40, scored 24 of 48, 0:00:12 left",
    ]


def test_a_farm_that_says_nothing_any_more_is_told(tmp_path: Path) -> None:
    write_progress(tmp_path / "mini", [checkpoint("base", 0, 0)], Speed())
    path = tmp_path / "mini" / FILE
    write_json(path, {**read_json(path), "time": time.time() - 600})
    lines = progress_lines(read_progress(tmp_path))
    assert lines[0].startswith("mini: the farm has said nothing for 600")
    assert lines[1].endswith("scored 0 of 48, ? left")


def test_a_farm_with_nothing_left_says_so(tmp_path: Path) -> None:
    write_progress(tmp_path / "mini", [checkpoint("base", 48, 48)], Speed())
    assert progress_lines(read_progress(tmp_path)) == ["mini: all is scored"]


def test_speed_counts_what_was_done_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    speed = Speed()
    now_s[0] = 10.0
    speed.add(30)
    assert speed.per_second == pytest.approx(3)
    now_s[0] = 200.0
    speed.add(60)
    assert speed.per_second == pytest.approx(0.5)
