"""Two attempts of a run at once, as when a scheduler has lost sight of a node that still runs."""

import os
import signal
import sys
from collections.abc import Callable

from cluster.agent import run_node
from cluster.exit_codes import ExitCode
from cluster.processes import session_members
from cluster.rendezvous import Node
from cluster.run_folder import RunFolder, published_steps, read_json, verify
from tests.conftest import Ranks, wait_until


def test_ranks_that_come_back_after_their_successors_publish_nothing(
    make_run: Callable[..., RunFolder], start_ranks: Callable[..., Ranks]
) -> None:
    run = make_run(steps=100_000, save_every=4, keep={"newest": 1})
    lost = start_ranks(run)
    lost.wait_for_checkpoint(4)
    ranks = [read_json(lost.attempt.heartbeat(rank))["pid"] for rank in (0, 1)]
    for pid in (lost.process.pid, *(pid for rank in ranks for pid in session_members(rank))):
        os.kill(pid, signal.SIGSTOP)
    newest = published_steps(run.checkpoints)[-1][0]

    run.recipe.write_text(run.recipe.read_text().replace("100000", str(newest + 4)))
    # On another node: an agent of the same one would begin by killing them.
    node = Node(name="another", number=0, nodes=1, address="127.0.0.1", ranks=2)
    trainer = ["-m", "trainer", "--config", str(run.recipe), "--attempt", "1"]
    assert run_node(run, run.begin_attempt(), node, [sys.executable, *trainer]) == ExitCode.DONE
    left = sorted(path.name for path in run.checkpoints.iterdir())
    assert left == ["LATEST", f"step-{newest + 4:08d}"]

    # They are back; their agent, which would end them within a second, is not yet.
    for rank in ranks:
        for pid in session_members(rank):
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "was superseded by attempt 1: it ends" in lost.log(0) + lost.log(1))
    os.kill(lost.process.pid, signal.SIGCONT)
    assert lost.wait() == ExitCode.DO_NOT_RESTART
    assert [step for step, _ in published_steps(run.checkpoints)] == [newest + 4]
    assert verify(run.checkpoint(newest + 4))["attempt"] == 1
    assert (run.checkpoints / "LATEST").read_text() == f"step-{newest + 4:08d}\n"
