"""`ray job submit … python -m evalfarm watch` as typed, on a Ray that somebody else started."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.ranks.leftovers import RUN
from cluster.ranks.processes import kill_session, session_members
from cluster.ray.ports import plan_ports
from cluster.run_folder import RunFolder, published_steps, read_json
from tests.conftest import PATIENCE_S, publish_lora_export, read_events, wait_until
from trainer.data.build import build
from trainer.data.config import DataConfig, WordsConfig

BIN = Path(sys.executable).parent
# A Ray without a token, whatever lies in the home of who runs the tests.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of two CPUs; the address that jobs are submitted to."""
    # Its own, where Ray notes who is its head: for its jobs it would else take the head of any Ray
    # that was started on this machine since. A short path, as sockets lie below it.
    folder = tempfile.mkdtemp(prefix="letterpress-ray-")
    ports = plan_ports(folder, is_head=True)
    # Jobs go to the agent, which goes without its port where another Ray of the machine has it.
    agent_port = ports.numbers["dashboard-agent-listen-port"]
    dashboard_port = ports.numbers["dashboard-port"]
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
        *("--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir={folder}"),
        *ports.flags,
    ]
    environment = {**ENVIRONMENT, **ports.variables}
    with (tmp_path_factory.mktemp("ray") / "log").open("w") as output:
        ray = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(lambda: listens(dashboard_port) and listens(agent_port))
        yield f"http://127.0.0.1:{dashboard_port}"
    finally:
        kill_session(ray.pid)
        ray.wait()
    assert session_members(ray.pid) == []
    shutil.rmtree(folder)


def test_the_farm_runs_as_a_ray_job(
    dashboard: str, checkout: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    suite = tmp_path / "quick.yaml"
    suite.write_text(
        "{name: quick, prompts: [\"'eel'\"], metrics: [ocr], sampler_steps: 1, height: 32,"
        " width: 96}"
    )
    section = {"suites": [str(suite)], "device": "cpu", "precision": "fp32"}
    run.root.mkdir()
    run.recipe.write_text(json.dumps({"name": "run", "eval": section}))
    publish_lora_export(run.export(8), tiny_model, 8, final=True)

    submit(dashboard, checkout, "-m", "evalfarm", "watch", "--run", str(run.root))
    (row,) = read_json(run.evaluation("quick") / "results.json")["rows"]
    assert row["complete"]
    assert row["n_scored"] == 1


def test_samples_built_on_ray_are_those_built_in_one_process(
    dashboard: str, checkout: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "one-process", tmp_path / "ray"]
    words = WordsConfig(samples=2500)  # three shards
    build(DataConfig(path=folders[0], words=words))
    data = {"path": str(folders[1]), "words": {"samples": 2500}}
    keys = {"model": "none", "data": data, "steps": 1, "global_batch": 1}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"train": keys}))
    submit(dashboard, checkout, "-m", "trainer.data", "build", "--config", str(recipe), "--ray")
    one, other = (read_json(folder / "manifest.json") for folder in folders)
    assert one == other
    assert len([name for name in one["files"] if name.endswith(".tar")]) == 3


def test_a_recipe_is_submitted_stopped_resumed_and_cancelled_as_a_job_of_ray(
    dashboard: str, checkout: Path, tmp_path: Path, train_keys: dict[str, Any]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    train = train_keys | {"steps": 4000, "save_every": 4000, "preview": None}
    recipe.write_text(json.dumps({"name": "on-ray", "train": train, "ranks": {"per_node": 2}}))
    run = RunFolder(checkout / "runs" / "on-ray")
    name = str(run.root)

    letterpress(dashboard, checkout, "submit", str(recipe), "--on", "ray")
    wait_until(lambda: len(read_events(run.attempt(0), "step")) > 1)
    letterpress(dashboard, checkout, "stop", name)
    wait_until(lambda: read_json(run.state)["outcome"] == "stopped")
    (saved, _), *_ = published_steps(run.checkpoints)

    letterpress(dashboard, checkout, "resume", name)
    assert read_json(run.state)["ray_job"]["id"] in letterpress(dashboard, checkout, "status", name)
    wait_until(lambda: len(read_events(run.attempt(1), "step")) > 1)
    assert letterpress(dashboard, checkout, "cancel", name).startswith("cancelled job on-ray-")
    assert processes_of(run) == []
    assert read_events(run.attempt(1), "step")[0]["step"] == saved + 1
    (record,) = run.attempt(1).node_records()
    assert [rank["signal"] for rank in record["ranks"]] == ["SIGKILL", "SIGKILL"]
    state = read_json(run.state)
    assert state["outcome"] == "cancelled"
    assert [attempt["verdict"]["cause"] for attempt in state["attempts"]] == ["stopped", "stopped"]
    assert len({attempt["job"] for attempt in state["attempts"]}) == 2


def processes_of(run: RunFolder) -> list[str]:
    """The command lines of the live processes that were told of a run, or started for it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            words, environment = process.cmdline(), process.environ()
            told = str(run.root) in words or environment.get(RUN) == str(run.root)
            if told and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(words))
    return found


def letterpress(dashboard: str, checkout: Path, *arguments: str) -> str:
    """What a command of the launcher prints, on this Ray."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *arguments],
        cwd=checkout,
        env={**ENVIRONMENT, "RAY_ADDRESS": dashboard},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(dashboard: str, checkout: Path, *command: str) -> None:
    """`ray job submit --working-dir . -- python …`, to its end."""
    whole = [
        *(str(BIN / "ray"), "job", "submit", "--address", dashboard, "--working-dir", "."),
        *("--", "python", *command),
    ]
    done = subprocess.run(
        whole, cwd=checkout, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
