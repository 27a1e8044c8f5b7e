"""What runs leave is read as it is: whole, killed, or not yet begun."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.accounts.attempt_facts import add_accounts, attempt_facts
from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, read_json, write_json
from cluster.state import begin_attempt, end_attempt, new_state

BEGAN = 1_800_000_000.0  # in seconds since 1970


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder of two nodes with four ranks each."""
    made = RunFolder(tmp_path / "run")
    made.root.mkdir()
    made.recipe.write_text("ranks: {nodes: 2, per_node: 4}\ntrain: {device: cuda}\n")
    write_json(made.state, new_state({}))
    return made


def step_events(first: int, last: int, read_s: float, images_per_s: float) -> list[dict[str, Any]]:
    """As the journal writes the steps that it reads at once."""
    return [
        {"event": "step", "time": BEGAN + read_s + i * 1e-4, "step": step, "loss": 0.1,
         "images_per_s": images_per_s}
        for i, step in enumerate(range(first, last + 1))
    ]  # fmt: skip


def leave(run: RunFolder, number: int, events: list[dict[str, Any]]) -> None:
    """What a main rank leaves of an attempt whose steps are 32 images."""
    attempt = run.attempt(number)
    attempt.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    write_json(attempt.heartbeat(0), {"time": BEGAN + 50, "images_per_step": 32})


def test_steps_that_were_read_together_are_one_piece(run: RunFolder) -> None:
    number = begin_attempt(run)
    start = {"event": "start", "time": BEGAN + 20, "step": 4, "steps": 20, "ranks": 8}
    steps = [*step_events(5, 8, 28, 16.0), *step_events(9, 10, 30, 32.0)]
    saved = {"event": "checkpoint", "time": BEGAN + 31, "step": 8, "path": "", "stall_s": 0.1}
    validation = {"event": "validation", "time": BEGAN + 29, "step": 8, "loss": 0.1, "bands": {}}
    leave(run, number, [start, *steps, validation, saved])
    with run.attempt(number).events.open("a") as file:
        file.write('{"event": "step", "ti')  # a kill came
    facts = attempt_facts(run, {"number": number, "started": BEGAN})
    assert [(one.first, one.last, one.step_s) for one in facts.steps] == [(5, 8, 2.0), (9, 10, 1.0)]
    assert facts.steps[0].began == pytest.approx(BEGAN + 20)
    assert (facts.ranks, facts.resumed_from) == (8, 4)
    assert facts.saved == {8}
    assert facts.validated == {8: BEGAN + 29}


def test_the_end_is_that_of_the_last_node_or_the_last_sign_of_life(run: RunFolder) -> None:
    number = begin_attempt(run)
    record: dict[str, Any] = {"number": number, "started": BEGAN}
    assert attempt_facts(run, record).ended == BEGAN
    assert attempt_facts(run, record).running
    leave(run, number, [])
    assert attempt_facts(run, record).ended == BEGAN + 50
    ended = {**record, "ended": BEGAN + 90, "exit_code": 75}
    assert attempt_facts(run, ended).ended == BEGAN + 90
    for host, at in (("a", 60), ("b", 70)):
        node = {"ended": BEGAN + at, "exit_code": 75, "ranks": [{"rank": 0}], "hang": None}
        write_json(run.attempt(number).node_record(host), node)
    facts = attempt_facts(run, ended)
    assert facts.ended == BEGAN + 70
    assert facts.failed
    assert not facts.hung
    node = {"ended": BEGAN, "exit_code": 75, "ranks": [{"rank": 0}], "hang": {"rank": 1}}
    write_json(run.attempt(number).node_record("c"), node)
    assert attempt_facts(run, ended).hung


def test_ranks_that_never_started_are_the_recipes(run: RunFolder) -> None:
    number = begin_attempt(run)
    assert attempt_facts(run, {"number": number, "started": BEGAN}).ranks == 8


def test_the_state_holds_the_hours_of_each_attempt_and_of_the_run(run: RunFolder) -> None:
    end_attempt(run, begin_attempt(run, queued=0.0), ExitCode.RETRY_ELSEWHERE)
    end_attempt(run, begin_attempt(run), ExitCode.RETRY_ELSEWHERE)
    state = read_json(run.state)
    first, second = (attempt["gpu_hours"] for attempt in state["attempts"])
    assert first["lost"]["queue"] > 8 * 400_000  # since 1970
    assert first["requested"] == pytest.approx(first["used"] + first["lost"]["queue"])
    assert "queue" not in second["lost"]
    assert state["gpu_hours"]["used"] == pytest.approx(first["used"] + second["used"])


def test_curves_stand_at_the_step_that_an_attempt_came_to(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    now = [BEGAN, BEGAN + 40] * 2
    monkeypatch.setattr("cluster.state.time", SimpleNamespace(time=lambda: now.pop(0)))
    for number, (first, last) in enumerate(((1, 10), (11, 20))):
        assert begin_attempt(run) == number
        start = {"event": "start", "time": BEGAN, "step": first - 1, "steps": 20, "ranks": 8}
        leave(run, number, [start, *step_events(first, last, 28, 32.0)])
        end_attempt(run, number, ExitCode.DONE)
    written = EventAccumulator(str(run.tensorboard / "cluster"))
    written.Reload()
    # Two files of one second are read by their names, and 10 stands before 9 there.
    goodput = sorted(written.Scalars("cluster/goodput"), key=lambda point: point.step)
    assert [point.step for point in goodput] == [10, 20]
    assert [point.value for point in goodput] == pytest.approx([10 / 40, 20 / 80])
    useful = sorted(point.value for point in written.Scalars("gpu_hours/useful"))
    assert useful == pytest.approx([80 / 3600, 160 / 3600])
    starts = [point.value for point in written.Scalars("gpu_hours_lost/start")]
    assert max(starts) == pytest.approx(2 * 8 * 18 / 3600)


def test_a_run_that_never_started_has_no_hours(run: RunFolder) -> None:
    state = read_json(run.state)
    add_accounts(run, state)
    assert state["gpu_hours"]["used"] == 0
    assert state["gpu_hours"]["goodput"] is None
