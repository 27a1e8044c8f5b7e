"""python -m benchmarks.terms_seconds: how long a CPU takes for each term of Stable Diffusion 1.5.

A real forward and backward pass over one picture at 512 pixels, in seconds of one core's time, and
the operations that benchmarks/without_data.py counts of it, so that it can be scaled: random
weights in fp32, with gradient checkpointing (10 GiB are needed), without DeepSpeed and optimizer.
The reward samples two steps and learns through one. In bf16 a convolution's backward pass takes
this CPU minutes. Nothing is downloaded but the recogniser that rapidocr carries.
"""

import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.terms import Case, reward, write_segmenter
from benchmarks.terms_sd15 import CHECKPOINTING, RESOLUTION, SHAPE, config_of
from benchmarks.without_data import new_step, track

HERE = Path(__file__).parent


def main() -> None:
    """Time every case and write it beside this file."""
    measured_on = machine()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        segmenter = write_segmenter(Path(folder))
        rows = [timed(name, keys) for name, keys in cases(segmenter).items()]
    report = {
        "command": "python -m benchmarks.terms_seconds",
        "unit": "seconds of one core's time for a picture; 1e12 operations",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "settings": {"model": SHAPE, "resolution": RESOLUTION, "precision": "fp32", "pictures": 1},
        "cases": rows,
    }
    path = HERE / "results" / "terms-seconds-cpu.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")


def cases(segmenter: Path) -> dict[str, Case]:
    """The train section of each, where it differs from the others."""
    return {
        "denoising": {},
        "+ characters": {"objective": {"characters": {"segmenter": str(segmenter)}}},
        "+ ocr": {"objective": {"ocr": {}}},
        "reward, K = 1 of 2": {"unet": "lora", "reward": reward(1, True, RESOLUTION)},
    }


def timed(name: str, keys: Case) -> dict[str, Any]:
    """One step of it."""
    config = config_of({**keys, **CHECKPOINTING}, 1, "fp32")
    flop = track(config, SHAPE, RESOLUTION).flop
    step = new_step(config, SHAPE, RESOLUTION)
    start = time.process_time()
    if left_out := step():
        raise RuntimeError(f"the recogniser does not read what was drawn: {left_out}")
    seconds = time.process_time() - start
    print(f"{name:20} {seconds:7.1f} s  {flop / 1e12:6.2f} TFLOP", flush=True)
    return {
        "case": name,
        "seconds": round(seconds, 1),
        "tflop": round(flop / 1e12, 2),
        "gflop_per_second": round(flop / seconds / 1e9, 1),
    }


if __name__ == "__main__":
    main()
