"""The table of GPU-hours in `letterpress status RUN`."""

import json
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, read_json, write_json
from cluster.state import begin_attempt, end_attempt
from launcher.freeze import freeze
from launcher.recipe import load_recipe
from launcher.view.accounts import accounts_table
from launcher.view.status import details
from tests.conftest import CHECKOUT


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return freeze(load_recipe(CHECKOUT / "recipes" / "mini.yaml"), tmp_path / "mini")


def test_a_run_that_has_not_started_has_no_table(run: RunFolder) -> None:
    assert accounts_table(run, read_json(run.state)) == []
    assert "rank-hours" not in details(run)


def test_a_row_for_each_attempt_and_one_for_all(run: RunFolder) -> None:
    for code in (75, 0):
        end_attempt(run, begin_attempt(run), code)
    state = read_json(run.state)
    state["attempts"][0] |= {"started": 0.0, "ended": 1800.0}
    state["attempts"][1] |= {"queued": 1800.0, "started": 5400.0, "ended": 7200.0}
    lines = [" ".join(line.split()) for line in accounts_table(run, state)]
    # Two ranks for half an hour, of which nothing is known but that no step was made.
    assert lines == [
        "rank-hours requested used useful goodput lost: queue lost: start",
        "attempt 0 1.000 1.000 0.000 0.0% – 1.000",
        "attempt 1 3.000 1.000 0.000 0.0% 2.000 1.000",
        "all 4.000 2.000 0.000 0.0% 2.000 2.000",
    ]


def test_status_counts_a_run_that_still_goes_on(run: RunFolder) -> None:
    number = begin_attempt(run, backend="local", pid=2**22)
    started = read_json(run.state)["attempts"][0]["started"]
    step = {"event": "step", "time": started + 30, "step": 1, "loss": 0.1, "images_per_s": 3.2}
    start = {"event": "start", "time": started, "step": 0, "steps": 9, "ranks": 2}
    events = "".join(json.dumps(event) + "\n" for event in (start, step))
    run.attempt(number).events.write_text(events)
    beat = {"time": started + 30, "images_per_step": 32, "phase": "train", "steps": 9, "step": 1}
    write_json(run.attempt(number).heartbeat(0), beat)
    row = next(line for line in details(run).splitlines() if line.startswith("attempt 0"))
    assert row.split()[2:] == ["0.017", "0.017", "0.006", "33.3%", "0.011"]  # 10 of 30 s
