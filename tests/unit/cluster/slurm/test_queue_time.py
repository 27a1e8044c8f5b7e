"""The queue's beginning is what squeue says, or unknown."""

import os
import stat
from datetime import datetime
from pathlib import Path

import pytest

from cluster.slurm.queue_time import queued_at


@pytest.mark.parametrize(
    ("printed", "expected"),
    [("2026-11-22T05:12:33", datetime(2026, 11, 22, 5, 12, 33).timestamp()), ("N/A", None)],
)
def test_squeue_tells_when_a_job_was_asked_for(
    printed: str, expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\n[ "$2" = --jobs=42 ] && echo "{printed}"\n')
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert queued_at("42") == expected
    assert queued_at("43") is None  # squeue knows of no such job


def test_without_slurm_the_queue_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queued_at("42") is None
