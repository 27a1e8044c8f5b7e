"""What the unit tests share."""

from pathlib import Path

import pytest

from tests.fake_slurm import FakeSlurm


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A login node whose SLURM is scripts; no command of it is there until a test says so."""
    return FakeSlurm(tmp_path, monkeypatch)
