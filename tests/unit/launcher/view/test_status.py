"""What `letterpress status` shows of one run."""

from pathlib import Path

from cluster.run_folder import RunFolder, write_json
from cluster.state import begin_attempt, new_state
from launcher.view.status import details


def test_a_rank_that_holds_up_the_others_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.recipe.write_text("train: {device: cpu}")
    write_json(run.state, new_state({"git": None}))
    attempt = run.attempt(begin_attempt(run))
    beat = {"rank": 0, "phase": "train", "step": 50, "steps": 100, "time": 0.0}
    write_json(attempt.heartbeat(0), {**beat, "stragglers": {}})
    assert "straggler" not in details(run)
    write_json(attempt.heartbeat(0), {**beat, "stragglers": {"3": 1.618}})
    assert "straggler  rank 3 takes 1.62 times the median for its own part of a step" in details(
        run
    )
