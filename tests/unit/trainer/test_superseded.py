"""A rank that a newer attempt has overtaken says so, whatever it stumbled over first."""

import sys
from collections.abc import Callable

import pytest

from cluster.exit_codes import ExitCode
from cluster.program import run_program
from cluster.run_folder import RunFolder
from trainer.__main__ import main


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("what it was writing was swept away"),
        ValueError("the checkpoint that it was exporting was removed"),
        RuntimeError("the other rank is gone"),
    ],
)
def test_a_superseded_rank_blames_the_newer_attempt_for_what_failed(
    error: Exception,
    make_run: Callable[..., RunFolder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run()
    command = ["trainer", "--config", str(run.recipe), "--attempt", str(run.begin_attempt())]
    run.begin_attempt()

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("trainer.train.train", fail)
    monkeypatch.setattr("trainer.__main__.answer_with_stacks", lambda: None)  # stays registered
    monkeypatch.setattr(sys, "argv", command)
    assert run_program(main) == ExitCode.DO_NOT_RESTART
    assert "error: attempt 0 of" in capsys.readouterr().err
