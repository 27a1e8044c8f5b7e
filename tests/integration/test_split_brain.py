"""Two attempts of a run at once, as when a scheduler has lost sight of a node that still runs."""

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, published_steps, verify
from tests.conftest import PATIENCE_S, wait_until
from tests.integration.forked_ranks import fork_ranks
from tests.integration.forkserver import start_forkserver


def test_ranks_that_come_back_after_their_successors_publish_nothing(
    make_run: Callable[..., RunFolder],
) -> None:
    context = start_forkserver()
    run = make_run(steps=100_000, save_every=4, keep={"newest": 1})
    lost = fork_ranks(context, run)  # and no agent that would end them
    try:
        come_back(context, run, lost)
    finally:
        for rank in lost:
            rank.kill()


def come_back(
    context: ForkServerContext, run: RunFolder, lost: Sequence[ForkServerProcess]
) -> None:
    """Hold up the lost ranks until others have done the rest."""
    wait_until(lambda: bool(published_steps(run.checkpoints)))
    for rank in lost:
        assert rank.pid
        os.kill(rank.pid, signal.SIGSTOP)
    last = published_steps(run.checkpoints)[-1][0] + 4

    run.recipe.write_text(run.recipe.read_text().replace("100000", str(last)))
    for rank in fork_ranks(context, run):
        rank.join(PATIENCE_S)
        assert rank.exitcode == ExitCode.DONE, run.attempt(1).rank_log(0).read_text()
    after = ["LATEST", f"step-{last:08d}"]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == after

    for rank in lost:
        assert rank.pid
        os.kill(rank.pid, signal.SIGCONT)
    for rank in lost:
        rank.join(PATIENCE_S)
    logs = [run.attempt(0).rank_log(number).read_text() for number in range(len(lost))]
    told = [log for log in logs if f"error: attempt 0 of {run.root} was superseded by" in log]
    assert told, logs
    assert ExitCode.DO_NOT_RESTART in [rank.exitcode for rank in lost]
    assert [step for step, _ in published_steps(run.checkpoints)] == [last]
    assert verify(run.checkpoint(last))["attempt"] == 1
    assert (run.checkpoints / "LATEST").read_text() == f"step-{last:08d}\n"
