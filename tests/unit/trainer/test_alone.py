"""What several processes want at once is made by one of them."""

import errno
import fcntl
import multiprocessing
from pathlib import Path

import pytest

from trainer.data.alone import alone_at
from trainer.data.build import build
from trainer.data.config import DataConfig, WordsConfig

PROCESSES = 3


def build_words(path: Path, said: Path) -> None:
    """Make some samples, and leave what was said of it."""
    said.write_text(build(DataConfig(path=path, words=WordsConfig(samples=16))))


def test_runs_that_start_at_once_make_their_samples_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    said = [tmp_path / f"said-{number}" for number in range(PROCESSES)]
    processes = [context.Process(target=build_words, args=(tmp_path / "w", one)) for one in said]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(path.read_text().split()[0] for path in said) == ["16", "16", "drew"]
    assert not list(tmp_path.glob(".w*"))  # neither a lock nor anything half done


def test_a_build_that_fails_lets_the_next_one_in(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone_at(tmp_path / "w"):
            _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_storage_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone_at(tmp_path / "w"):
        pass
    assert f"{tmp_path} has no locks: let no other process make" in capsys.readouterr().err
