"""What a user sees of a run: lines for what happened, one that says how far it is."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.run_folder import RunFolder, write_json
from launcher.view.follow import Follower, progress_line
from launcher.view.status import details, results_and_places

COLUMN = {
    "key": "f1/x",
    "title": "F1",
    "decimals": 2,
    "higher_is_better": True,
    "headline": True,
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run in its first attempt."""
    made = RunFolder(tmp_path / "run")
    made.begin_attempt()
    made.recipe.write_text("train: {}\n")
    write_json(made.state, {"attempts": [{"number": 0, "started": 0.0}], "outcome": None})
    return made


def beat(run: RunFolder, rank: int = 0, **facts: Any) -> None:
    common = {"rank": rank, "phase": "train", "steps": 100, "images_per_step": 8, "time": 0}
    write_json(run.attempt(0).heartbeat(rank), common | facts)


def write_results(run: RunFolder, *rows: dict[str, Any]) -> None:
    common = {"checkpoint": "c", "complete": True, "n_scored": 3, "n_expected": 3, "errors": []}
    results = {"suite": "mini", "columns": [COLUMN], "absent": {}}
    write_json(
        run.evaluation("mini") / "results.json", results | {"rows": [common | row for row in rows]}
    )


def test_the_bar_says_loss_speed_and_time_left(run: RunFolder) -> None:
    beat(run, step=25, loss=0.5, images_per_s=4.0)
    line = progress_line(run, run.attempt(0))
    assert line == f"train {'█' * 6}{'░' * 18} 25/100  loss 0.5000  4.0 images/s  0:02:30 left"


def test_the_bar_counts_samples_that_cannot_be_read_on_any_rank(run: RunFolder) -> None:
    beat(run, step=1, broken_samples=2)
    beat(run, rank=1, step=1, broken_samples=1)
    assert "3 samples cannot be read" in progress_line(run, run.attempt(0))


def test_the_bar_shows_what_the_farm_has_left(run: RunFolder) -> None:
    beat(run, step=100)
    checkpoints = [
        {"name": "base", "expected": 48, "made": 48, "scored": 48},
        {"name": "step 50", "expected": 48, "made": 40, "scored": 32},
    ]
    write_json(run.evaluation("mini") / "progress.json", {"checkpoints": checkpoints})
    assert progress_line(run, run.attempt(0)).endswith("farm: step 50 32/48")


def test_each_event_is_told_once_and_a_half_written_line_waits(run: RunFolder) -> None:
    out = io.StringIO()
    follower = Follower(run, 0, out)
    start = {"event": "start", "step": 0, "steps": 9, "ranks": 2, "passed_over": ["a is broken"]}
    export = {"event": "export", "step": 5, "path": "/runs/run/exports/step-00000005"}
    with run.attempt(0).events.open("w") as events:
        events.write(json.dumps(start) + "\n" + json.dumps(export)[:20])
        events.flush()
        follower.update()
        events.write(json.dumps(export)[20:] + "\n")
    follower.update()
    follower.update()
    told = [line.partition("  ")[2] for line in out.getvalue().splitlines()]
    assert told == [
        "2 ranks started after step 0 of 9; passed over a checkpoint: a is broken",
        "published exports/step-00000005",
    ]


def test_why_a_run_ends_before_its_last_step_is_told(run: RunFolder) -> None:
    out = io.StringIO()
    validation = {"event": "validation", "step": 9, "loss": 0.123456, "bands": {}}
    stop = {"event": "early_stop", "step": 9, "metric": "validation_loss", "best_step": 3}
    run.attempt(0).events.write_text(f"{json.dumps(validation)}\n{json.dumps(stop)}\n")
    Follower(run, 0, out).update()
    assert [line.partition("  ")[2] for line in out.getvalue().splitlines()] == [
        "validation loss 0.12346 after step 9",
        "ends early: validation_loss was best after step 3",
    ]


def test_an_evaluation_is_told_when_it_is_complete(run: RunFolder) -> None:
    out = io.StringIO()
    follower = Follower(run, 0, out)
    row = {"name": "step 5", "step": 5, "values": {"f1/x": 0.25}}
    write_results(run, row | {"complete": False})
    follower.update()
    assert out.getvalue() == ""
    write_results(run, row)
    follower.update()
    assert out.getvalue().endswith("  evaluated step 5 by mini: F1 0.25, n 3\n")


def test_the_end_of_a_run_shows_the_table_and_where_to_look(run: RunFolder) -> None:
    write_results(run, {"name": "base", "step": 0, "values": {"f1/x": 0.5}})
    shown = results_and_places(run)
    assert "base  0.50  3" in shown
    assert f"report    {run.evaluation('mini') / 'report.html'}" in shown
    assert shown.endswith(f"curves    letterpress board {run.root}")
    assert "base  0.50  3" in details(run)
