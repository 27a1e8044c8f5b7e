"""python -m benchmarks.generation: pictures a second, by batch and by what makes it fast.

A model of Stable Diffusion 1.5's shape on a GPU, the mini model without one. The peer is what a
plain script does: diffusers' pipeline, a prompt at a time. Ours makes the same pictures as the
farm's generators do, in batches, as they are, channels last, compiled, and both. Each case is
warmed up first, which for a compiled one is said in seconds; then all take turns, round by round,
so that whatever else the machine does slows all alike.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.models import write_model
from evalfarm.farm.generate import make_pictures
from evalfarm.suite import Item, Sampling
from trainer.models.loaded import LoadedModel
from trainer.models.named import find_named
from trainer.models.pipeline import load_pipeline
from trainer.models.samplers import new_sampler

HERE = Path(__file__).parent
CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
MODEL = "sd15, random weights" if CUDA else "assets/mini"
SAMPLING = (
    Sampling(sampler_steps=25, guidance=7.5, height=512, width=512)
    if CUDA
    else Sampling(sampler_steps=25, guidance=4.0, height=32, width=96)
)
BATCHES = (1, 4, 8, 16) if CUDA else (1, 8, 32)
ROUNDS = 5
WAYS = {
    "as it is": {},
    "channels last": {"channels_last": True},
    "compiled": {"compiled": True},
    "both": {"compiled": True, "channels_last": True},
}

Case = Callable[[], None]


def main() -> None:
    """Measure, print a table, and write it beside this file."""
    parser = argparse.ArgumentParser(description="pictures a second, by batch and way")
    parser.add_argument("--batches", type=int, nargs="*", default=list(BATCHES))
    batches = parser.parse_args().batches
    measured_on = machine()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model("sd15", Path(folder), DEVICE) if CUDA else HERE.parent / MODEL
        cases: dict[tuple[str, int], Case] = {("plain diffusers", 1): plain(model)}
        for way, batch in product(WAYS, batches):
            cases[way, batch] = ours(model, batch, WAYS[way])
        first_s = {case: seconds(run) for case, run in cases.items()}
        rounds = [{case: seconds(run) for case, run in cases.items()} for _ in range(ROUNDS)]
    rows = [row(case, first_s[case], [one[case] for one in rounds], rounds) for case in cases]
    for one in rows:
        print(one)
    report = {
        "command": "python -m benchmarks.generation",
        "unit": f"pictures per second, median of {ROUNDS} rounds",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "diffusers")},
        "model": MODEL,
        "size_px": [SAMPLING.height, SAMPLING.width],
        "sampler_steps": SAMPLING.sampler_steps,
        "dtype": str(DTYPE).removeprefix("torch."),
        "cases": rows,
    }
    path = HERE / "results" / f"generation-{'cuda' if CUDA else 'cpu'}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")


def plain(model: Path) -> Case:
    """A picture as a plain script makes it."""
    pipeline = load_pipeline(model, device=DEVICE, dtype=DTYPE)

    def make() -> None:
        pipeline(
            "'eel' in red",
            num_inference_steps=SAMPLING.sampler_steps,
            guidance_scale=SAMPLING.guidance,
            height=SAMPLING.height,
            width=SAMPLING.width,
        )

    return make


def ours(model: Path, batch: int, way: dict[str, bool]) -> Case:
    """A unit's pictures as a generator of the farm makes them."""
    loaded = LoadedModel(device=DEVICE, dtype=DTYPE, **way)
    pipeline = loaded.switch(find_named(str(model)))
    pipeline.scheduler = new_sampler(
        loaded.schedule, loaded.schedule["prediction_type"], SAMPLING.sampler
    )
    items = [Item(prompt=number, sample=0, text="'eel' in red") for number in range(batch)]

    def make() -> None:
        make_pictures(pipeline, SAMPLING, items)

    return make


def seconds(run: Case) -> float:
    """Of the clock on the wall."""
    started_s = time.perf_counter()
    run()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def row(
    case: tuple[str, int],
    first_s: float,
    spent_s: list[float],
    rounds: list[dict[tuple[str, int], float]],
) -> dict[str, Any]:
    """What the table says of a case."""
    way, batch = case
    plain_s = [one["plain diffusers", 1] for one in rounds]
    ratio = statistics.median(
        batch * theirs / mine for theirs, mine in zip(plain_s, spent_s, strict=True)
    )
    return {
        "way": way,
        "batch": batch,
        "pictures_per_s": round(batch / statistics.median(spent_s), 2),
        "of plain diffusers": round(ratio, 2),
        "first_batch_s": round(first_s, 1),
    }


if __name__ == "__main__":
    main()
