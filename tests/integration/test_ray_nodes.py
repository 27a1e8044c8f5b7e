"""Training on a Ray of several nodes: one is killed, one is drained, one is lost from sight."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
from ray.cluster_utils import Cluster

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import kill_session
from cluster.ray.session import until_up
from cluster.run_folder import RunFolder, published_steps, read_json, verify, write_json
from cluster.state import new_state
from launcher.freeze import freeze
from launcher.recipe import load_recipe
from tests.conftest import CHECKOUT, PATIENCE_S, read_events, wait_until

QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}


class Nodes:
    """A Ray whose head takes no ranks, and named nodes of one CPU."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
        self.cluster = until_up(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.by_name: dict[str, Any] = {}

    def start(self, name: str) -> None:
        """Let a node join."""
        self.by_name[name] = until_up(lambda: self.cluster.add_node(num_cpus=1, node_name=name))

    def kill(self, name: str) -> None:
        """Kill a node's processes."""
        self.cluster.remove_node(self.by_name.pop(name), allow_graceful=False)

    def lose(self, name: str) -> None:
        """Hold a raylet, as a network would: what it has started goes on."""
        (raylet,) = self.by_name[name].all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGSTOP)

    def drain(self, node_id: str) -> None:
        """As whoever is to take a node away types it."""
        command = [
            *(str(Path(sys.executable).parent / "ray"), "drain-node", "--node-id", node_id),
            *("--address", self.cluster.address, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message", "a spot machine", "--deadline-remaining-seconds", "60"),
        ]
        subprocess.run(command, check=True, timeout=PATIENCE_S)

    def keep(self, *names: str) -> None:
        """Let these nodes be there, and no other."""
        for name in set(self.by_name) - set(names):
            self.kill(name)
        for name in set(names) - set(self.by_name):
            self.start(name)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A Ray without nodes to train on."""
    with pytest.MonkeyPatch.context() as patch:
        # Both nodes' ranks have a thread for each core of this machine: they are not to spin.
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        nodes = Nodes()
        yield nodes
        nodes.keep()
        nodes.cluster.shutdown()


@pytest.fixture
def drive(nodes: Nodes) -> Iterator[Callable[[RunFolder, str], subprocess.Popen[bytes]]]:
    """Starts a driver as Ray does for a job; it is gone when the test ends."""
    started = []

    def start(run: RunFolder, module: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "RAY_ADDRESS": nodes.cluster.address}
        with (run.root / "driver.log").open("w") as output:
            driver = subprocess.Popen(
                [sys.executable, "-m", module, str(run.root)],
                cwd=CHECKOUT,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(driver)
        return driver

    yield start
    for driver in started:
        kill_session(driver.pid)
        driver.wait()


def attempts(run: RunFolder) -> list[dict[str, Any]]:
    """What is recorded of a run's attempts."""
    return list(read_json(run.state)["attempts"])


def said(run: RunFolder) -> str:
    """What the driver has printed."""
    return (run.root / "driver.log").read_text()


def test_training_waits_for_its_second_node_and_for_another_when_it_has_lost_that(
    nodes: Nodes,
    drive: Callable[[RunFolder, str], subprocess.Popen[bytes]],
    tmp_path: Path,
    train_keys: dict[str, Any],
) -> None:
    nodes.keep("n1")
    few = {"steps": 60, "save_every": 20, "global_batch": 4, "preview": None}
    keys = {"train": train_keys | few, "ranks": {"nodes": 2}, "ray": {"grows": True}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "two-nodes", **keys}))
    run = freeze(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    write_json(run.state, {**read_json(run.state), "ray_job": {"id": "two-nodes-1"}})
    driver = drive(run, "launcher.ray.driver")
    wait_until(lambda: "waiting for 2 nodes with 1 CPU free" in said(run))
    nodes.start("n2")

    wait_until(lambda: run.checkpoint(20).exists() or driver.poll() is not None)
    nodes.kill("n2")
    wait_until(lambda: "decision" in attempts(run)[0] or driver.poll() is not None)
    (lost,) = attempts(run)
    assert sorted(lost["hosts"]) == ["n1", "n2"], said(run)
    assert (lost["verdict"]["cause"], lost["verdict"]["node"]) == ("hardware", "n2")
    assert lost["decision"]["why"] == "hardware: restarted without n2 (1 of 5)"

    nodes.start("n3")
    assert driver.wait(PATIENCE_S) == ExitCode.DONE, said(run)
    _, last = attempts(run)
    assert sorted(last["hosts"]) == ["n1", "n3"]
    assert last["verdict"]["cause"] == "done"
    steps = [event["step"] for event in read_events(run.attempt(1), "step")]
    assert steps == list(range(lost["step"] + 1, 61))
    assert read_json(run.state)["outcome"] == "done"


@pytest.fixture
def light_run(tmp_path: Path, train_keys: dict[str, Any]) -> RunFolder:
    """A run of one rank at a time, whose code is the checkout's."""
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.code.symlink_to(CHECKOUT)
    run.recipe.write_text(json.dumps({"name": "run", "train": train_keys}))
    write_json(run.state, new_state({"ray_job": {"id": "run-1"}}))
    return run


def publishes(run: RunFolder, attempt: int) -> bool:
    """Whether the newest checkpoint is that attempt's."""
    steps = published_steps(run.checkpoints)
    return bool(steps) and verify(steps[-1][1])["attempt"] == attempt


def test_a_node_that_ray_drains_is_left_with_everything_saved(
    nodes: Nodes,
    drive: Callable[[RunFolder, str], subprocess.Popen[bytes]],
    light_run: RunFolder,
) -> None:
    run = light_run
    nodes.keep("n1", "n3")
    driver = drive(run, "tests.integration.attempts_on_ray")
    wait_until(lambda: publishes(run, 0))
    (drained,) = attempts(run)
    nodes.drain(drained["node_ids"][0])

    wait_until(lambda: publishes(run, 1))
    first, second = attempts(run)
    (host,) = first["hosts"]
    assert first["exit_code"] == ExitCode.STOPPED
    reason = f"Ray drains {host}, which is preempted (STOP)"
    assert (first["verdict"]["cause"], first["verdict"]["evidence"]) == ("preempted", reason)
    assert first["decision"]["why"] == "preempted: restarted when there is room"
    assert {host, *second["hosts"]} == {"n1", "n3"}

    nodes.keep()
    wait_until(lambda: "waiting for a node with 1 CPU free" in said(run))
    run.request_stop("letterpress stop")  # while it waits for a node
    assert driver.wait(PATIENCE_S) == ExitCode.STOPPED, said(run)
    causes = [attempt["verdict"]["cause"] for attempt in attempts(run)]
    assert causes == ["preempted", "hardware"], attempts(run)[1]["verdict"]


def test_ranks_on_a_node_that_ray_has_lost_publish_nothing_beside_their_successors(
    nodes: Nodes,
    drive: Callable[[RunFolder, str], subprocess.Popen[bytes]],
    light_run: RunFolder,
) -> None:
    run = light_run
    nodes.keep("n4", "n5")
    drive(run, "tests.integration.attempts_on_ray")
    wait_until(lambda: publishes(run, 0))
    (host,) = attempts(run)[0]["hosts"]
    nodes.lose(host)

    wait_until(lambda: publishes(run, 1))
    record = run.attempt(0).node_record(host)
    wait_until(record.exists)  # its agent lived on, and found out by itself
    assert read_json(record)["superseded"]
    assert read_json(record)["exit_code"] == ExitCode.DO_NOT_RESTART
    first, second = attempts(run)
    assert (first["verdict"]["cause"], first["verdict"]["node"]) == ("hardware", host)
    assert {host, *second["hosts"]} == {"n4", "n5"}
    for _, folder in published_steps(run.checkpoints):
        manifest = verify(folder)
        assert manifest["attempt"] == int(manifest["time"] > second["started"])
