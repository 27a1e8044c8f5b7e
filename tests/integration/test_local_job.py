"""`letterpress submit` on this machine, as users have it: stopped, resumed, none left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, published_steps, read_json, write_json
from tests.conftest import CHECKOUT, PATIENCE_S, wait_until

SUITE = """
name: quick
prompts: ["'eel'", "'few'"]
metrics: [ocr, clip_score]
sampler_steps: 1
height: 32
width: 96
"""


class Launcher:
    """Runs the command line in a folder of its own, and knows the processes that come of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"LETTERPRESS_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), name: value}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `letterpress` with these arguments."""
        return subprocess.Popen(
            [sys.executable, "-m", "launcher", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self) -> list[int]:
        """All live processes that descend from a command of ours: they bear its mark."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """A command line in an empty folder; what it leaves behind is killed."""
    started = Launcher(tmp_path)
    yield started
    for pid in started.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def recipe(tmp_path: Path, train_keys: dict[str, Any], tiny_model: Path) -> Callable[..., Path]:
    """Writes a recipe that takes seconds; keyword arguments change its train section."""
    (tmp_path / "quick.yaml").write_text(SUITE)

    def write(*, score: bool, **changes: Any) -> Path:
        section = {
            "suites": ["quick.yaml"],
            "networks": {"clip": str(tiny_model / "clip")},
            "device": "cpu",
            "precision": "fp32",
        }
        keys = {
            "name": "job",
            "ranks": {"per_node": 2},
            "train": train_keys | changes,
            "eval": section if score else None,
        }
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps(keys))
        return path

    return write


def test_the_whole_road_from_recipe_to_table(
    launcher: Launcher, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    data = {"path": "drawn", "words": {"samples": 16, "min_letters": 4}, "cache": "encoded"}
    path = recipe(score=True, data=data, unet="lora", lora={"rank": 2})
    done = launcher.start("submit", str(path))
    output, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == ExitCode.DONE, output
    for line in (
        "drew 16 samples into",
        "latents: 16 rows",
        "2 ranks started after step 0 of 4",
        "published checkpoints/step-00000002",
        "published exports/step-00000004",
        "evaluated base by quick: OCR P ",
        "evaluated step 4 by quick: OCR P ",
        "the run is done",
    ):
        assert line in output, output
    run = RunFolder(tmp_path / "runs" / "job")
    table = output.partition("suite quick\n")[2].splitlines()
    assert [line.split("  ")[0] for line in table[1:4]] == ["base", "step 2", "step 4"]
    assert f"report    {run.evaluation('quick') / 'report.html'}" in table
    assert f"pictures  {run.evaluation('quick') / 'images'}" in table
    assert f"curves    letterpress board {run.root}" in table
    assert read_json(run.state)["outcome"] == "done"
    assert launcher.processes() == []

    again = launcher.start("submit", str(path))
    output, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == ExitCode.BAD_INPUT
    assert "exists: `letterpress resume" in output


def test_ctrl_c_saves_resume_goes_on_and_stop_saves_too(
    launcher: Launcher, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(score=False, steps=100_000, save_every=100_000)
    run = RunFolder(tmp_path / "runs" / "job")
    first = launcher.start("submit", str(path))
    wait_until(lambda: step_of_heartbeat(run) >= 2)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == ExitCode.STOPPED, output
    assert "saving at the next step, then stopping" in output
    ((saved, _),) = published_steps(run.checkpoints)
    assert launcher.processes() == []

    second = launcher.start("resume", str(run.root))
    wait_until(lambda: run.last_attempt() == 1 and step_of_heartbeat(run) > saved)
    refused = launcher.start("resume", str(run.root))
    assert "is running: stop it first" in refused.communicate(timeout=PATIENCE_S)[0]
    assert refused.returncode == ExitCode.BAD_INPUT
    stop = launcher.start("stop", str(run.root))
    assert "asked job to save and stop" in stop.communicate(timeout=PATIENCE_S)[0]
    output, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == ExitCode.STOPPED, output
    assert f"2 ranks started after step {saved} of 100000" in output
    assert published_steps(run.checkpoints)[-1][0] > saved
    state = read_json(run.state)
    assert state["outcome"] == "stopped"
    assert launcher.processes() == []
    for attempt in state["attempts"]:  # stopped as asked: no step was lost
        hours = attempt["gpu_hours"]
        assert hours["lost"]["rework"] == 0
        ranks_s = 2 * (attempt["ended"] - attempt["started"])
        assert 0 < hours["useful"] < hours["used"] <= ranks_s / 3600
        assert 0 < hours["lost"]["start"] < hours["used"]
    assert len(list((run.tensorboard / "cluster").glob("*.attempt-*"))) == 2  # a point for each

    logs = launcher.start("logs", str(run.root), "-f")
    assert "stopped as asked after step" in logs.communicate(timeout=PATIENCE_S)[0]


def test_a_second_ctrl_c_ends_it_at_once_and_leaves_no_process(
    launcher: Launcher, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(score=True, steps=100_000, save_every=100_000)
    run = RunFolder(tmp_path / "runs" / "job")
    job = launcher.start("submit", str(path))
    wait_until(lambda: (run.evaluation("quick") / "progress.json").exists())  # Ray is at work
    job.send_signal(signal.SIGINT)
    assert job.stdout is not None
    while "saving at the next step" not in job.stdout.readline():
        assert job.poll() is None
    job.send_signal(signal.SIGINT)
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert "ended at once" in output or "the run has" in output
    assert launcher.processes() == []


def test_a_rank_that_fails_is_explained_in_one_line(
    launcher: Launcher, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(score=False, unet="lora", lora={"target_modules": ["nowhere"]})
    job = launcher.start("submit", str(path))
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == ExitCode.BAD_INPUT, output
    assert "failed: error: train.lora: the target modules ['nowhere'] match no layer" in output
    assert "user error: not restarted, it would end the same way again" in output
    assert "Traceback" not in output
    assert "the run has failed" in output


def test_a_killed_rank_is_restarted_in_place_and_ctrl_c_is_not(
    launcher: Launcher, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "runs" / "job")
    job = launcher.start("submit", str(recipe(score=False, steps=100_000, save_every=10)))
    wait_until(lambda: bool(published_steps(run.checkpoints)))
    os.kill(read_json(run.attempt(0).heartbeat(1))["pid"], signal.SIGKILL)
    wait_until(lambda: run.last_attempt() == 1 and step_of_heartbeat(run) > 10)
    job.send_signal(signal.SIGINT)
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == ExitCode.STOPPED, output
    assert re.search(r"rank 1 on \S+ failed: ended by SIGKILL \(node-\S+\.json\)", output)
    assert "unknown: restarted in place (1 of 2)" in output
    first, second = read_json(run.state)["attempts"]
    assert f"2 ranks started after step {first['step']} of 100000" in output
    assert (first["decision"]["restart"], second["decision"]["restart"]) == (True, False)
    assert second["verdict"]["cause"] == "stopped"
    assert launcher.processes() == []


def step_of_heartbeat(run: RunFolder) -> int:
    """The step that the newest attempt's first rank says it is at."""
    number = run.last_attempt()
    path = run.attempt(number or 0).heartbeat(0)
    return int(read_json(path)["step"]) if path.exists() else 0


def test_the_board_shows_the_runs_that_are_named(launcher: Launcher, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for name in ("one", "two", "three"):
        run = RunFolder(tmp_path / "runs" / name)
        run.root.mkdir(parents=True)
        run.recipe.write_text("name: x")
        write_json(run.state, {})
        with SummaryWriter(run.tensorboard / "train") as writer:
            writer.add_scalar("train/loss", 1.0, 1)
    board = launcher.start("board", "runs/one", "runs/two")
    assert board.stdout is not None
    address = ""
    for line in board.stdout:
        found = re.search(r"http://localhost:\d+/", line)
        if found:
            address = found[0]
            break
    wait_until(lambda: len(runs_shown(address)) == 2)
    assert sorted(runs_shown(address)) == ["one/train", "two/train"]
    board.send_signal(signal.SIGINT)
    board.communicate(timeout=PATIENCE_S)


def runs_shown(address: str) -> list[str]:
    """The runs that a TensorBoard knows by now."""
    with urllib.request.urlopen(f"{address}data/runs", timeout=10) as answer:
        runs: list[str] = json.load(answer)
    return runs
