"""Ranks that hang are found by their agent, told apart from those that wait, and ended."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.agent import run_node
from cluster.exit_codes import ExitCode
from cluster.hangs.heartbeat import PHASES
from cluster.hangs.silence import Limits
from cluster.ranks.processes import session_members
from cluster.rendezvous import Node, local_node
from cluster.run_folder import RunFolder, read_json
from tests.conftest import PATIENCE_S, read_events, wait_until
from tests.integration.ranks_that_hang import HANGS_AT

# A machine that is busy with other tests may leave a rank without the processor for a second.
QUICK = Limits(first_s=120.0, floor_s=5.0, factor=1.0)
# A step of a real training takes two processors there, and may be without them for longer.
PATIENT = Limits(first_s=240.0, floor_s=15.0, factor=1.0)


def hang_of(
    run: RunFolder, command: Sequence[str], node: Node | None = None, limits: Limits = QUICK
) -> dict[str, Any]:
    """Run two ranks until their agent finds that they hang; what it recorded."""
    node = node or local_node(2)
    assert run_node(run, 0, node, command, limits) == ExitCode.RETRY_ELSEWHERE
    record = read_json(run.attempt(0).node_record(node.name))
    assert record["exit_code"] == ExitCode.RETRY_ELSEWHERE
    assert {rank["signal"] for rank in record["ranks"]} == {"SIGKILL"}
    assert record["first_failed_rank"] is None
    hang: dict[str, Any] = record["hang"]
    assert hang["silent_s"] > hang["limit_s"] >= limits.floor_s
    assert hang["stacks"] == ["stacks-rank-0000.txt", "stacks-rank-0001.txt"]
    return hang


def test_a_rank_that_runs_in_circles_is_named_with_its_stack(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin_attempt()
    hang = hang_of(run, steps_that_hang(run, "runs_in_circles"))
    # Both have done the same steps: only the stacks tell who waits for whom.
    assert (hang["ranks"], hang["phase"], hang["step"]) == ([1], "train", HANGS_AT - 1)
    assert "in runs_in_circles" in run.attempt(0).stacks(1).read_text()
    assert "in all_reduce" in run.attempt(0).stacks(0).read_text()


def test_the_agents_of_two_nodes_agree_on_the_rank_that_sleeps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin_attempt()
    command = steps_that_hang(run, "sleeps")
    hosts = ("n1", "n2")
    first, second = (
        Node(name=name, number=number, nodes=2, address="127.0.0.1", ranks=1, hosts=hosts)
        for number, name in enumerate(hosts)
    )
    other = multiprocessing.get_context("spawn").Process(
        target=hang_of, args=(run, command, second)
    )
    other.start()
    hang = hang_of(run, command, first)
    other.join(PATIENCE_S)
    assert other.exitcode == 0
    assert (hang["ranks"], hang["phase"], hang["step"]) == ([1], "train", HANGS_AT - 1)
    assert hang["hosts"] == ["n2"]
    assert read_json(run.attempt(0).node_record("n2"))["hang"]["ranks"] == [1]
    assert "in sleeps" in run.attempt(0).stacks(1).read_text()


def steps_that_hang(run: RunFolder, how: str) -> list[str]:
    """The command of ranks of which one hangs."""
    return [sys.executable, "-m", "tests.integration.ranks_that_hang", str(run.root), how]


def test_a_rank_of_a_training_is_named_when_it_is_slow_and_when_it_stops(
    make_run: Callable[..., RunFolder],
) -> None:
    run = make_run(steps=100_000, save_every=100_000)
    attempt = run.attempt(run.begin_attempt())

    def stop_a_rank() -> None:
        try:
            wait_until(lambda: bool(read_events(attempt, "warning")))
            for pid in session_members(read_json(attempt.heartbeat(1))["pid"]):
                os.kill(pid, signal.SIGSTOP)
        except BaseException:
            run.request_stop("the test has failed")
            raise

    threading.Thread(target=stop_a_rank, daemon=True).start()
    trainer = ["tests.integration.slow_rank", "--config", str(run.recipe), "--attempt", "0"]
    hang = hang_of(run, [sys.executable, "-m", *trainer], limits=PATIENT)
    (slow,) = read_events(attempt, "warning")
    assert slow["message"].startswith("rank 1 holds up the others: for its own part of a step it")
    assert read_json(attempt.heartbeat(0))["stragglers"].keys() == {"1"}
    assert list((run.tensorboard / "cluster").glob("events.*"))
    assert (hang["ranks"], hang["phase"]) == ([1], "train")
    # Its last word may be half a second old: whoever is stopped cannot write a later one.
    assert 0 < hang["step"] <= read_events(attempt, "step")[-1]["step"]
    assert ": stopped" in attempt.stacks(1).read_text()
    assert "distributed_c10d.py" in attempt.stacks(0).read_text()
    (record,) = attempt.node_records()
    assert set(record["longest_silence_s"]) <= set(PHASES)
    assert record["ranks"][1]["last_step"] >= hang["step"]
