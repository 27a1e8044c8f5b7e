"""What the numbers advise, and copying the export that they advise."""

from pathlib import Path
from typing import Any

import pytest

from cluster.run_folder import BrokenFolder, RunFolder, publish, read_json, remove_step, verify
from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.report.report import write_reports
from evalfarm.results.promote import promote
from evalfarm.results.record import find_checkpoint
from evalfarm.results.results import summarize
from evalfarm.results.verdict import PATIENCE, verdict
from tests.unit.evalfarm.conftest import SUITE, ocr_key, write_checkpoint
from trainer.config import EarlyStopConfig
from trainer.early_stop import read_series, stalled


def entry(evaluation: Evaluation, name: str) -> dict[str, Any]:
    found: dict[str, Any] = verdict(evaluation, summarize(evaluation))["metrics"][
        ocr_key(evaluation, name)
    ]
    return found


def test_stop_is_advised_when_the_trainer_would(evaluation: Evaluation, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.evaluations.mkdir(parents=True)
    (run.evaluations / "three").symlink_to(evaluation.folder)
    for step, accuracy in enumerate([0.1, 0.5, 0.2, 0.5, 0.4]):
        write_checkpoint(evaluation, step, [accuracy] * 3)
        write_reports(evaluation)
        found = read_json(run.verdict("three"))["metrics"][ocr_key(evaluation, "ned")]
        series = read_series(run, "three/ocr_ned", {})
        assert found["stop"] is stalled(series, EarlyStopConfig(patience=PATIENCE))
        assert found["best_step"] == series.best(1)[0]
    assert found["stop"]
    assert found["since_best"] == 3


def test_of_an_export_that_was_made_anew_the_latest_counts(evaluation: Evaluation) -> None:
    for step in (10, 20, 30):
        write_checkpoint(evaluation, step, [0.0, 0.5, 1.0])
    write_checkpoint(evaluation, 30, [1.0, 0.5, 1.0], digest="0" * 64)
    write_reports(evaluation)
    found = entry(evaluation, "accuracy")
    assert found["values"] == {"10": 0.5, "20": 0.5, "30": pytest.approx(2.5 / 3)}
    assert found["trend"]["steps"] == [10, 20, 30]
    assert find_checkpoint(f"{evaluation.folder}@30", None).row["checkpoint"] == "0" * 64


def test_the_trend_is_the_slope_of_the_last_values(evaluation: Evaluation) -> None:
    for step, values in ((0, [9, 9, 9]), (10, [0, 3, 6]), (20, [1, 4, 8]), (30, [2, 5, 10])):
        write_checkpoint(evaluation, step, [value / 10 for value in values])
    write_checkpoint(evaluation, 40, [0.3, 0.6, 1.2])
    trend = entry(evaluation, "accuracy")["trend"]
    assert trend["steps"] == [10, 20, 30, 40]
    # By hand: the three prompts climb 0.1, 0.1 and 0.2 in each 10 steps.
    assert trend["per_1000_steps"] == pytest.approx(40 / 3)
    reach = 4.30265 * 10 / 3  # t(2) SE, SE = s / √3 of 10, 10 and 20
    assert trend["low"] == pytest.approx(40 / 3 - reach, rel=1e-4)
    assert "low" not in entry(evaluation, "f1")["trend"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with three exports; the second has the best accuracy."""
    found = RunFolder(tmp_path / "run")
    found.evaluations.mkdir(parents=True)
    found.recipe.write_text("{}")
    opened = Evaluation(SUITE, EvalConfig(), found.evaluation("three"))
    for step, accuracy in ((10, 0.2), (20, 0.9), (30, 0.5)):
        staging = tmp_path / f"staging-{step}"
        staging.mkdir()
        (staging / "weights.safetensors").write_bytes(bytes([step]))
        publish(staging, found.export(step), {"kind": "lora", "base": "assets/mini"})
        checkpoint = opened.add_checkpoint(found.export(step), step, f"step {step}")
        write_checkpoint(opened, step, [accuracy] * 3, digest=checkpoint.checkpoint)
    write_reports(opened)
    opened.close()
    return found


def test_the_best_export_is_copied_whole_with_the_reason(run: RunFolder) -> None:
    line = promote(run, None, "ocr_accuracy", None)
    assert line.startswith("copied step 20, the best of 3 that are scored by ocr_accuracy/")
    target = run.root / "best-ocr_accuracy"
    facts = verify(target)
    assert (target / "weights.safetensors").read_bytes() == bytes([20])
    assert facts["base"] == "assets/mini"
    assert (facts["promoted"]["step"], facts["promoted"]["value"]) == (20, pytest.approx(0.9))
    with pytest.raises(ValueError, match=r"is there already: name a new folder by --to"):
        promote(run, None, "ocr_accuracy", None)


def test_what_is_not_clear_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no metric ned: it has ocr_accuracy/"):
        promote(run, None, "ned", None)
    (run.export(20) / "weights.safetensors").write_bytes(b"!")
    with pytest.raises(BrokenFolder, match=r"weights.safetensors is not the file"):
        promote(run, None, "ocr_ned", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_was_replaced_or_removed_since_is_refused(
    run: RunFolder, tmp_path: Path
) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "weights.safetensors").write_bytes(b"others")
    publish(staging, run.export(20), {"kind": "lora", "base": "assets/mini"})
    with pytest.raises(ValueError, match="holds other weights than were scored"):
        promote(run, None, "ocr_ned", None)
    remove_step(run.export(20))
    with pytest.raises(ValueError, match="was the best, and is gone"):
        promote(run, None, "ocr_ned", None)
