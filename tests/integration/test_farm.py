"""The farm on a real Ray with real OCR: what it leaves, and what it says when it cannot work."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import kill_session, session_members
from cluster.run_folder import RunFolder, read_json
from tests.conftest import CHECKOUT, PATIENCE_S, publish_lora_export, wait_until

SUITE = """
name: quick
prompts: ["'eel' in red", "'few'", "'gem' in black", "no word", "'eel' in red", "../<b>'tea'</b>"]
metrics: [ocr, clip_score, frechet]
sampler_steps: 2
height: 32
width: 96
"""
STEPS = (0, 10, 15, 20)
SPOILT = Path("step-00000015", "pytorch_lora_weights.safetensors")


@pytest.fixture(scope="module")
def exports(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA exports as a trainer publishes them, the last one final; one was spoilt since."""
    folder = tmp_path_factory.mktemp("exports")
    for step in STEPS:
        export = folder / f"step-{step:08d}"
        publish_lora_export(export, tiny_model, step, final=step == STEPS[-1], strength=step / 20)
    spoilt = folder / SPOILT
    spoilt.write_bytes(spoilt.read_bytes()[:-4] + b"\0\0\0\0")
    return folder


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures that count as real."""
    folder = tmp_path_factory.mktemp("references")
    for number in range(4):
        image = Image.linear_gradient("L").rotate(20 * number).resize((96, 32)).convert("RGB")
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def make_run(
    exports: Path, references: Path, tiny_model: Path, tmp_path: Path
) -> Callable[[str], RunFolder]:
    """Makes a run folder whose exports are there already."""
    (tmp_path / "quick.yaml").write_text(SUITE)

    def make(name: str) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.root.mkdir(parents=True, exist_ok=True)
        run.exports.symlink_to(exports)
        section = {
            "suites": [str(tmp_path / "quick.yaml")],
            "networks": {"clip": str(tiny_model / "clip")},
            "references": str(references),
            "device": "cpu",
            "precision": "fp32",
            "batch": 2,
        }
        run.recipe.write_text(json.dumps({"name": name, "eval": section}))
        return run

    return make


@pytest.fixture
def watch() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m evalfarm watch`; all that it started is gone when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(run: RunFolder, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "evalfarm", "watch", "--run", str(run.root)]
        with (run.root / "farm.log").open("a") as log:
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        kill_session(process.pid)
        process.wait()


def rows(run: RunFolder) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the ledger but who made them and how long it took."""
    with sqlite3.connect(run.evaluation("quick") / "ledger.sqlite") as ledger:
        pictures = ledger.execute(
            "SELECT checkpoint, prompt, sample, status, file, sha256, error FROM pictures"
            " ORDER BY 1, 2, 3"
        ).fetchall()
        scores = ledger.execute(
            "SELECT checkpoint, prompt, sample, metric, status, numbers, detail, features, error"
            " FROM scores ORDER BY 1, 2, 3, 4"
        ).fetchall()
    ledger.close()
    return {"pictures": pictures, "scores": scores}


def log(run: RunFolder) -> str:
    return (run.root / "farm.log").read_text()


def test_every_whole_export_is_scored_a_broken_one_is_named_and_the_farm_ends_by_itself(
    make_run: Callable[[str], RunFolder],
    watch: Callable[..., subprocess.Popen[str]],
) -> None:
    run = make_run("run")
    farm = watch(run)
    assert farm.wait(PATIENCE_S) == ExitCode.DONE, log(run)
    broken = run.exports / SPOILT
    assert f"refused an export: {broken} is not the file that was published" in log(run)
    results = read_json(run.evaluation("quick") / "results.json")
    assert [row["name"] for row in results["rows"]] == ["base", "step 10", "step 20"]
    for row in results["rows"]:
        assert (row["n_expected"], row["n_made"], row["n_scored"]) == (6, 6, 6)
        assert len(row["values"]) == len(results["columns"]) == 12
        assert row["complete"]
    distances = [
        value
        for row in results["rows"]
        for key, value in row["values"].items()
        if key.startswith("frechet_distance/clip@")
    ]
    assert len(set(distances)) == 3  # other weights, other pictures
    assert (run.evaluation("quick") / "report.html").is_file()
    assert next((run.tensorboard / "eval-quick").glob("events*"))
    wait_until(lambda: session_members(farm.pid) == [])  # no Ray is left behind
    done = rows(run)
    assert [len(done["pictures"]), len(done["scores"])] == [4 + 3 * 6, 4 + 3 * 6 * 3]
    files = [row[4] for row in done["pictures"] if row[4].startswith("images/")]
    assert len(set(files)) == 3 * 6  # also of a prompt that is asked twice
    assert all((run.evaluation("quick") / file).is_file() for file in files)
    page = (run.evaluation("quick") / "report.html").read_text()
    assert "../&lt;b&gt;" in page
    assert "../<b>" not in page

    file = files[0]
    picture = Image.open(run.evaluation("quick") / file)
    assert picture.text["parameters"].splitlines()[1].startswith("Steps: 2, Sampler: DDIM")  # type: ignore[attr-defined]


def test_a_full_disk_is_one_line_and_the_farm_goes_on_once_there_is_room(
    small_disk: Path,
    make_run: Callable[[str], RunFolder],
    watch: Callable[..., subprocess.Popen[str]],
) -> None:
    run = make_run("run")
    run.evaluations.symlink_to(small_disk)
    room = shutil.disk_usage(small_disk).free - 150_000
    (small_disk / "filler").write_bytes(bytes(room))
    farm = watch(run)
    assert farm.wait(PATIENCE_S) == ExitCode.DO_NOT_RESTART, log(run)
    assert "error: cannot write: [Errno 28]" in log(run)
    assert "Traceback" not in log(run)
    (small_disk / "filler").unlink()
    assert watch(run).wait(PATIENCE_S) == ExitCode.DONE, log(run)
    done = rows(run)
    assert [len(done["pictures"]), len(done["scores"])] == [4 + 3 * 6, 4 + 3 * 6 * 3]
    assert {row[3] for row in done["pictures"]} == {row[4] for row in done["scores"]} == {"ok"}


def test_a_folder_that_may_not_be_written_is_one_line(
    small_disk: Path,
    make_run: Callable[[str], RunFolder],
    watch: Callable[..., subprocess.Popen[str]],
) -> None:
    run = make_run("run")
    run.evaluations.symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    farm = watch(run)
    assert farm.wait(PATIENCE_S) == ExitCode.DO_NOT_RESTART, log(run)
    assert "error: cannot write: [Errno 30] Read-only file system" in log(run)
    assert "Traceback" not in log(run)


def test_a_second_farm_on_the_same_run_is_sent_away(
    make_run: Callable[[str], RunFolder], watch: Callable[..., subprocess.Popen[str]]
) -> None:
    run = make_run("run")
    watch(run)
    wait_until(lambda: (run.evaluations / "farm.lock").exists())
    second = watch(run)
    assert second.wait(PATIENCE_S) == ExitCode.BAD_INPUT
    assert f"error: another farm works on {run.evaluations}" in log(run)


def test_a_ray_that_cannot_be_reached_is_one_line(
    make_run: Callable[[str], RunFolder], watch: Callable[..., subprocess.Popen[str]]
) -> None:
    run = make_run("run")
    farm = watch(run, RAY_ADDRESS="127.0.0.1:9")
    assert farm.wait(PATIENCE_S) == ExitCode.RETRY_ELSEWHERE, log(run)
    assert "error: no Ray at RAY_ADDRESS 127.0.0.1:9" in log(run)
    assert "Traceback" not in log(run)
