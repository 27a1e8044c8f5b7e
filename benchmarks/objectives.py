"""python -m benchmarks.objectives: what each objective does to the mini model's spelling.

All start from the same base and see the same samples in the same order with the same noise
(recipes/mini_spell.yaml); each has one key more than the plain LoRA. The reward has no pictures,
but draws as many of its own, of the same captions. The farm then scores them by words that no
recipe trains on (suite mini_spell), with intervals. What was trained and scored already is not done
again: remove runs/objectives-* and data/mini-spell-scores to start anew.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from cluster.run_folder import RunFolder, published_steps, read_json
from cluster.table import results_table
from trainer.mini.__main__ import draw_references

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "mini_spell.yaml"
BASE = ROOT / "assets" / "mini"
SCORES = ROOT / "data" / "mini-spell-scores"
SUITE = "mini_spell"
SEGMENTER = "assets/mini-segmenter.safetensors"
NETWORKS = {"clip": "assets/mini/clip"}
REWARD = {
    "sampler": "dpmsolver++",
    "sampler_steps": 5,
    "guidance": 3.0,
    # All of them at times (AlignProp): what letter stands where is decided in the first.
    "least_grad_steps": 1,
    "grad_steps": 5,
    "height": 32,
    "width": 96,
    "line": "whole",
    "networks": NETWORKS,
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "plain": {},
    "text-mask": {"train.objective.mask_weight": 3},
    "character-loss": {"train.objective.characters": {"segmenter": SEGMENTER}},
    "ocr-loss": {
        "train.objective.denoising": {"weight": 0.8},
        "train.objective.ocr": {
            "weight": 0.2,
            "ctc": 1.0,
            "perceptual": 0.0,
            "weigh_by_signal": True,
        },
    },
    # The same two where little of the picture is to be seen, so that the prompt must tell.
    "characters-noise": {
        "train.objective.characters": {
            "segmenter": SEGMENTER,
            "weight": 1.0,
            "timesteps": [400, 999],
        },
    },
    "ocr-noise": {
        "train.objective.ocr": {
            "weight": 1.0,
            "ctc": 1.0,
            "perceptual": 0.0,
            "timesteps": [400, 999],
        },
    },
    "ocr-reward": {
        "train.objective": {},
        "train.reward": {"rewards": {"ocr": 1.0}, "watched": ["clip"], **REWARD},
        "train.optim.lr": 2e-3,
    },
    "ocr-clip-reward": {
        "train.objective": {},
        "train.reward": {"rewards": {"ocr": 1.0, "clip": 0.1}, **REWARD},
    },
}


def main() -> None:
    """Train, score, print the table, and write it beside this file."""
    parser = argparse.ArgumentParser(description="what each objective does to the mini model")
    parser.add_argument("--only", nargs="*", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--steps", type=int, help="optimizer steps, in place of the recipe's")
    arguments = parser.parse_args()
    measured_on = machine()
    exports = {name: train(name, arguments.steps) for name in arguments.only}
    tables = {name: score(name, model) for name, model in ({"base": BASE} | exports).items()}
    results = {**tables["base"], "rows": [row_of(name, tables[name]) for name in tables]}
    print(results_table(results, intervals=True))
    report = {
        "command": f"python -m benchmarks.objectives {' '.join(sys.argv[1:])}".strip(),
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "diffusers", "paddleocr")},
        "objectives": {name: OBJECTIVES[name] for name in exports},
        "minutes": {name: minutes_of(name) for name in exports},
        "results": {
            row["name"]: {part: row[part] for part in ("values", "intervals", "n")}
            for row in results["rows"]
        },
    }
    path = ROOT / "benchmarks" / "results" / "objectives-cpu.json"
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {path}")


def train(name: str, steps: int | None) -> Path:
    """The last export of an objective's run."""
    run = run_of(name)
    changes = OBJECTIVES[name] | (
        {"train.steps": steps, "train.save_every": steps} if steps else {}
    )
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    if not run.root.exists():
        submit = ["launcher", "submit", str(RECIPE), "--name", run.root.name]
        start([*submit, *(["--set", *settings] if settings else [])])
    return published_steps(run.exports)[-1][1]


def score(name: str, model: Path) -> dict[str, Any]:
    """What the farm says of a model, as results.json has it."""
    references = SCORES / "references.tar"
    if not references.exists():
        SCORES.mkdir(parents=True, exist_ok=True)
        draw_references(RECIPE, references)
    settings = {
        "device": "cpu",
        "precision": "fp32",
        "channels_last": True,
        "batch": 16,
        "networks": NETWORKS,
        "references": str(references),
    }
    ask = ["evalfarm", "score", "--suite", SUITE, "--model", str(model)]
    keys = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    start([*ask, "--out", str(SCORES / name), "--set", *keys])
    found: dict[str, Any] = read_json(SCORES / name / SUITE / "results.json")
    return found


def row_of(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """The numbers of an objective, under its name."""
    return {**results["rows"][-1], "name": name}


def run_of(name: str) -> RunFolder:
    """Where an objective is trained."""
    return RunFolder(ROOT / "runs" / f"objectives-{name}")


def minutes_of(name: str) -> float:
    """From the first step of each attempt to its last, on the clock on the wall."""
    seconds = 0.0
    for path in sorted(run_of(name).attempts.glob("*/events.jsonl")):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        times = [event["time"] for event in events if event["event"] == "step"]
        seconds += times[-1] - times[0]
    return round(seconds / 60, 1)


def start(command: list[str]) -> None:
    """Run one of our programs to its end."""
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
