"""Of two attempts at once only the newer one changes the run."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.agent import run_node
from cluster.exit_codes import ExitCode, Superseded
from cluster.fence import Fence
from cluster.program import run_program
from cluster.rendezvous import local_node
from cluster.run_folder import (
    RunFolder,
    point_latest,
    publish,
    published_steps,
    read_json,
    recover,
    remove_step,
    staging_folder,
    write_json,
)
from cluster.state import begin_attempt, end_attempt, end_run, new_state
from tests.conftest import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a checkpoint of step 5, whose attempt 0 goes on."""
    run = RunFolder(tmp_path)
    run.recipe.write_text("{}")
    write_json(run.state, new_state({}))
    begin_attempt(run)
    publish(stage(run, 5, attempt=0), run.checkpoint(5), {"attempt": 0})
    return run


def stage(run: RunFolder, step: int, attempt: int) -> Path:
    staging = staging_folder(run.checkpoint(step), attempt)
    staging.mkdir(parents=True)
    (staging / "weights").write_text(f"of attempt {attempt}")
    return staging


def test_the_newest_attempt_may_change_the_run_and_an_older_one_is_told_why_not(
    run: RunFolder,
) -> None:
    Fence(run, 0).check()
    begin_attempt(run)
    Fence(run, 1).check()
    with pytest.raises(Superseded, match=r"attempt 0 of .* was superseded by attempt 1"):
        Fence(run, 0).check()


CHANGES: dict[str, Callable[[RunFolder, Callable[[], None]], None]] = {
    "publish": lambda run, permit: publish(
        stage(run, 6, attempt=0), run.checkpoint(6), {}, permit=permit
    ),
    "publish again": lambda run, permit: publish(
        stage(run, 5, attempt=0), run.checkpoint(5), {}, permit=permit
    ),
    "remove": lambda run, permit: remove_step(run.checkpoint(5), permit),
    "point LATEST": lambda run, permit: point_latest(run.checkpoint(4), permit),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_superseded_attempt_can_change_nothing(change: str, run: RunFolder) -> None:
    begin_attempt(run)
    with pytest.raises(Superseded):
        CHANGES[change](run, Fence(run, 0).check)
    assert [step for step, _ in published_steps(run.checkpoints)] == [5]
    assert (run.checkpoint(5) / "weights").read_text() == "of attempt 0"
    assert (run.checkpoints / "LATEST").read_text() == "step-00000005\n"


def asked_too_early(run: RunFolder) -> Callable[[], None]:
    """Attempt 0's permit; a moment after it was first given attempt 1 begins, and sweeps."""

    def permit() -> None:
        Fence(run, 0).check()
        begin_attempt(run)
        recover(run.checkpoints)

    return permit


def test_what_a_newer_attempt_has_swept_away_is_not_published_and_nothing_is_lost(
    run: RunFolder,
) -> None:
    with pytest.raises(Superseded):
        publish(stage(run, 5, attempt=0), run.checkpoint(5), {}, permit=asked_too_early(run))
    assert (run.checkpoint(5) / "weights").read_text() == "of attempt 0"
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["LATEST", "step-00000005"]


def test_latest_is_not_set_back_by_an_attempt_that_a_newer_one_overtakes_meanwhile(
    run: RunFolder,
) -> None:
    with pytest.raises(Superseded):
        point_latest(run.checkpoint(4), asked_too_early(run))
    assert (run.checkpoints / "LATEST").read_text() == "step-00000005\n"
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["LATEST", "step-00000005"]


def test_the_agent_of_a_superseded_attempt_ends_its_ranks_and_says_so(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def begin_another() -> None:
        wait_until(lambda: run.attempt(0).rank_log(1).exists())
        begin_attempt(run)

    threading.Thread(target=begin_another).start()
    assert run_program(lambda: run_node(run, 0, local_node(2), SLEEP)) == ExitCode.DO_NOT_RESTART
    assert "error: attempt 0 of" in capsys.readouterr().err
    (record,) = run.attempt(0).node_records()
    assert record["superseded"]
    assert record["exit_code"] == ExitCode.DO_NOT_RESTART
    assert [rank["signal"] for rank in record["ranks"]] == ["SIGKILL", "SIGKILL"]


def test_a_signal_to_the_agent_of_a_superseded_attempt_does_not_stop_the_newer_one(
    run: RunFolder,
) -> None:
    def begin_another_and_signal() -> None:
        wait_until(lambda: run.attempt(0).rank_log(0).exists())
        run.begin_attempt()
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # should it come too late for the agent
    threading.Thread(target=begin_another_and_signal).start()
    with pytest.raises(Superseded):
        run_node(run, 0, local_node(1), SLEEP)
    signal.signal(signal.SIGTERM, before)
    assert not run.stop_request.exists()


def test_how_a_superseded_attempt_ended_says_nothing_of_the_run(run: RunFolder) -> None:
    begin_attempt(run)
    decision = end_attempt(run, 0, ExitCode.RETRY_ELSEWHERE)
    assert (decision.restart, decision.why) == (False, "superseded by attempt 1, which goes on")
    assert end_run(run, 0, ExitCode.RETRY_ELSEWHERE) == "superseded"
    assert read_json(run.state)["outcome"] is None
    assert end_run(run, 1, ExitCode.DONE) == "done"
    assert read_json(run.state)["outcome"] == "done"
