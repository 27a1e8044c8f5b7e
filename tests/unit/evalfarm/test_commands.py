"""The commands as they are typed, on results that are there."""

import sys
from pathlib import Path

import pytest

from evalfarm.__main__ import main
from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.farm.progress import Progress, Speed, write_progress
from evalfarm.report.report import write_reports
from tests.unit.evalfarm.conftest import SUITE, write_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two checkpoints scored."""
    evaluation = Evaluation(SUITE, EvalConfig(), tmp_path / "eval" / SUITE.name)
    write_checkpoint(evaluation, 10, [0.1, 0.2, 0.3])
    write_checkpoint(evaluation, 20, [0.6, 0.8, 0.7])
    write_reports(evaluation)
    evaluation.close()
    (tmp_path / "recipe.yaml").write_text("{}")
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["evalfarm", *map(str, words)])
    return main()


def test_the_report_shows_intervals_when_asked(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "report", "--run", run) == 0
    assert "±" not in capsys.readouterr().out
    assert typed(monkeypatch, "report", "--run", run, "--intervals") == 0
    assert "0.200±0.248" in capsys.readouterr().out


def test_the_out_of_score_has_status_and_report_too(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: Progress = {"name": "base", "expected": 3, "made": 3, "scored": 1}
    write_progress(run / "eval" / SUITE.name, [left], Speed())
    for folder in (run, run / "eval"):
        assert typed(monkeypatch, "status", "--run", folder) == 0
        assert "made 3, scored 1 of 3" in capsys.readouterr().out
        assert typed(monkeypatch, "report", "--run", folder) == 0
        assert "step 20" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no farm has begun with nowhere"):
        typed(monkeypatch, "status", "--run", "nowhere")


def test_two_checkpoints_are_compared_as_typed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "compare", f"{run}@10", f"{run}@20") == 0
    head, line, *_ = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "step 10 step 20 difference 95 % interval p n"
    assert line.split("  ")[0] == "OCR P ↑"
    assert line.split()[3:6] == ["0.200", "0.700", "+0.500"]


def test_a_vote_is_made_and_read_as_typed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run / "vote"
    assert typed(monkeypatch, "vote", "make", f"{run}@10", f"{run}@20", "--out", out) == 0
    assert f"3 pairs; voters open {out / 'page' / 'index.html'}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--pairs must be at least 1, got 0"):
        typed(monkeypatch, "vote", "make", f"{run}@10", f"{run}@20", "--out", out, "--pairs", "0")


@pytest.mark.parametrize("command", [(), ("compare",), ("promote",), ("report",), ("vote",)])
def test_help_teaches_by_an_example(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        typed(monkeypatch, *command, "--help")
    assert f"python -m evalfarm {' '.join(command)}".strip() in capsys.readouterr().out
