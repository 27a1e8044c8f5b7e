"""How programs fail: one line for the user's mistakes, a traceback for ours."""

import errno
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode, MachineFault
from cluster.program import last_words, run_program


def users_mistake() -> int:
    raise ValueError("train.lr must be positive, got -1")


def fault_in_a_library() -> int:
    return int("four")


def machine_fault() -> int:
    raise MachineFault("no Ray here")


def full_disk() -> int:
    raise OSError(errno.ENOSPC, "No space left on device", "/data/x")


def diverged() -> int:
    raise FloatingPointError("the loss of step 3 is nan")


def test_a_mistake_of_the_user_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.program.OURS", (__name__.partition(".")[0],))
    assert run_program(users_mistake) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err == "error: train.lr must be positive, got -1\n"


def test_the_same_error_from_a_library_is_our_fault_and_shows_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.program.OURS", ())
    assert run_program(fault_in_a_library) == ExitCode.DO_NOT_RESTART
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "code", "line"),
    [
        (machine_fault, ExitCode.RETRY_ELSEWHERE, "error: no Ray here"),
        (
            full_disk,
            ExitCode.DO_NOT_RESTART,
            "error: cannot write: [Errno 28] No space left on device: '/data/x'",
        ),
        (diverged, ExitCode.DO_NOT_RESTART, "error: the loss of step 3 is nan"),
    ],
)
def test_what_can_happen_anywhere_is_one_line_with_its_code(
    program: object, code: ExitCode, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(program) == code  # type: ignore[arg-type]
    assert capsys.readouterr().err == f"{line}\n"


def test_a_program_that_ends_well_says_so() -> None:
    assert run_program(lambda: ExitCode.STOPPED) == ExitCode.STOPPED


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("all good\nerror: no such model\nTraceback of another\n", "error: no such model"),
        ("Traceback\n  File x\nRuntimeError: boom\n\n", "RuntimeError: boom"),
        ("", "it said nothing"),
    ],
)
def test_the_last_words_are_our_error_line_or_the_last(
    log: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "program.log"
    path.write_text(log)
    assert last_words(path) == words
