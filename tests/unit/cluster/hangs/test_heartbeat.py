"""Heartbeats: often enough, and the last one is never held back."""

from pathlib import Path

import pytest

from cluster.hangs import heartbeat
from cluster.hangs.heartbeat import PHASES, Heartbeat
from cluster.run_folder import read_json
from tests.conftest import CHECKOUT, wait_until


def test_what_was_said_last_is_written_though_nothing_more_is_said(tmp_path: Path) -> None:
    beat = Heartbeat(tmp_path / "beat.json", rank=3)
    beat("train", step=1)
    assert read_json(beat.path)["step"] == 1
    for step in (2, 3, 4):
        beat("train", step=step)
    said_s = beat.state["monotonic_s"]
    wait_until(lambda: read_json(beat.path)["step"] == 4)
    assert read_json(beat.path)["monotonic_s"] == said_s  # when it was said, not written


def test_another_phase_is_written_at_once(tmp_path: Path) -> None:
    beat = Heartbeat(tmp_path / "beat.json", rank=0)
    beat("train", step=1)
    beat("save", step=1)
    assert read_json(beat.path)["phase"] == "save"


def test_a_beat_that_could_not_be_written_stops_the_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = Heartbeat(tmp_path / "beat.json", rank=0)
    beat("train", step=1)

    def disk_full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heartbeat, "write_json", disk_full)
    beat("train", step=2)
    wait_until(lambda: beat._error is not None)
    with pytest.raises(OSError, match="No space left"):
        beat("train", step=3)


def test_every_phase_that_the_trainer_tells_of_has_its_place() -> None:
    told = "".join((CHECKOUT / "trainer" / name).read_text() for name in ("train.py", "journal.py"))
    for phase in PHASES[1:]:
        assert f'beat("{phase}"' in told
    assert told.count('beat("') == sum(told.count(f'beat("{phase}"') for phase in PHASES)
