"""A full disk: the last whole checkpoint stands, and the run goes on once there is room."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, newest_complete, published_steps, verify
from tests.conftest import Ranks


def test_the_last_whole_checkpoint_stands_and_is_resumed_from(
    small_disk: Path,
    make_run: Callable[..., RunFolder],
    start_ranks: Callable[..., Ranks],
) -> None:
    elsewhere = make_run("run", steps=10, save_every=1)
    run = RunFolder(small_disk / "run")
    run.root.mkdir()
    run.recipe.write_text(elsewhere.recipe.read_text())

    full = start_ranks(run)
    assert full.wait() == ExitCode.DO_NOT_RESTART
    (record,) = full.attempt.node_records()
    log = full.log(record["first_failed_rank"])
    assert "error: cannot write: [Errno 28] No space left on device" in log
    assert "Traceback" not in log
    folder, passed_over = newest_complete(run.checkpoints)
    assert folder is not None
    assert passed_over == []
    saved = published_steps(run.checkpoints)[-1][0]
    assert 1 <= saved < 10

    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    resumed = start_ranks(run)
    assert resumed.wait() == ExitCode.DONE, resumed.log()
    assert min(resumed.losses()) == saved + 1
    verify(run.checkpoint(10))
    assert not list(run.checkpoints.glob(".*"))  # what was half-written is swept away
