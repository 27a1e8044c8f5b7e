"""Retention: the newest and the best stay, and nothing goes before its successor is complete."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, newest_complete, publish, published_steps, staging_folder
from trainer.config import KeepConfig
from trainer.retention import remove_old

LOSSES = {10: 0.5, 20: 0.2, 30: 0.4, 40: 0.2, 50: 0.3}


def run_with(folder: Path, steps: Sequence[int]) -> RunFolder:
    """A run with checkpoints that hold nothing but their history."""
    run = RunFolder(folder)
    for step in steps:
        staging = staging_folder(run.checkpoint(step), attempt=0)
        staging.mkdir(parents=True)
        (staging / "weights").write_text("weights")
        history = {"validation_loss": {s: loss for s, loss in LOSSES.items() if s <= step}}
        publish(staging, run.checkpoint(step), {"step": step, "shapes": {}, "history": history})
    return run


def kept(run: RunFolder) -> list[int]:
    return [step for step, _ in published_steps(run.checkpoints)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (KeepConfig(), [10, 20, 30, 40, 50]),
        (KeepConfig(newest=9), [10, 20, 30, 40, 50]),
        (KeepConfig(newest=2), [40, 50]),
        (KeepConfig(newest=1, best=1), [20, 50]),  # of equal ones the earlier
        (KeepConfig(newest=1, best=3), [20, 40, 50]),
        (KeepConfig(newest=2, best=3), [20, 40, 50]),
        (KeepConfig(newest=1, best=2, metric="mini/ocr_f1"), [10, 30, 50]),
        (KeepConfig(newest=1, best=2, metric="mini-2/ocr_f1"), [50]),  # not yet scored
    ],
)
def test_the_newest_and_the_best_stay(
    config: KeepConfig, expected: list[int], tmp_path: Path
) -> None:
    run = run_with(tmp_path, [10, 20, 30, 40, 50])
    values = {"0": 1.0, "10": 0.9, "20": 0.1, "30": 0.8}  # step 0 has no checkpoint
    verdict = {"metrics": {"ocr_f1": {"higher_is_better": True, "values": values}}}
    run.verdict("mini").parent.mkdir(parents=True)
    run.verdict("mini").write_text(json.dumps(verdict))
    removed = remove_old(run, 50, config)
    assert kept(run) == expected
    assert removed == [step for step in LOSSES if step not in expected]
    assert {path.name for path in run.checkpoints.iterdir()} == {
        "LATEST",
        *(run.checkpoint(step).name for step in expected),
    }


def test_a_broken_checkpoint_that_was_passed_over_is_nobodys_successor(tmp_path: Path) -> None:
    run = run_with(tmp_path, [10, 20, 30])
    (run.checkpoint(30) / "weights").unlink()
    assert newest_complete(run.checkpoints)[0] == run.checkpoint(20)
    # The run goes on after step 20 and saves step 25.
    run_with(tmp_path, [25])
    assert remove_old(run, 25, KeepConfig(newest=1, best=1)) == [10]  # step 20 is the best
    assert remove_old(run, 25, KeepConfig(newest=1)) == [20]
    assert newest_complete(run.checkpoints)[0] == run.checkpoint(25)


def test_what_is_still_being_written_is_nobodys_successor(tmp_path: Path) -> None:
    run = run_with(tmp_path, [10, 20])
    staging_folder(run.checkpoint(30), attempt=1).mkdir()
    assert remove_old(run, 20, KeepConfig(newest=1)) == [10]
    assert newest_complete(run.checkpoints)[0] == run.checkpoint(20)
