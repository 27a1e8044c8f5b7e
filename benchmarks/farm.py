"""python -m benchmarks.farm: what the farm costs, and what it gains.

Two measures, each against a peer in the same run:

    efficiency   the farm's own driver, dispatcher and ledger, but with stand-ins for its generators
                 that take a fixed time over each unit and scorers that take none: the time that so
                 many workers would need at least, over the time it took. The peer is Ray's own
                 ActorPool with the same stand-ins, which keeps no ledger and survives no kill
    mini         pictures/s of `python -m evalfarm score --suite mini` on the mini model, against a
                 plain script on the same cores: a prompt at a time through the pipeline, then OCR,
                 then CLIP, then the Fréchet distance

Loading and starting are told apart in both: a farm is for many checkpoints.
"""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
}

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util import ActorPool

from benchmarks.machine import machine
from benchmarks.stand_ins import NoReporter, QuickScorer, SlowGenerator
from cluster.program import run_program
from cluster.ray.session import ray_cluster
from cluster.run_folder import write_text
from evalfarm.config import EvalConfig
from evalfarm.evaluation import GENERATORS, REPORTERS, SCORERS
from evalfarm.farm import pool as pool_module
from evalfarm.farm.driver import Farm
from evalfarm.farm.generate import make_pictures
from evalfarm.farm.pool import Pool
from evalfarm.farm.watch import score
from evalfarm.metrics.base import Asked, Batch, get
from evalfarm.networks import Networks
from evalfarm.references import picture_names, read_picture
from evalfarm.suite_files import load_suite
from evalfarm.work import Generate
from trainer.models.config import NetworksConfig
from trainer.models.named import find_named

HERE = Path(__file__).parent
MODEL = HERE.parent / "assets" / "mini"
UNIT_S = 2.0
UNITS_PER_WORKER = 20
BATCH = 8
WORKERS = {16: 0.95, 128: 0.9}
"""Workers, and the efficiency that is aimed at."""
MINI_TARGET = 2.0
MINI_SAMPLES = 6


def main() -> int:
    """Measure, print, and write the figures beside this file."""
    parser = argparse.ArgumentParser(description="what the farm costs, and what it gains")
    parser.add_argument("--workers", type=int, nargs="*", default=list(WORKERS))
    parser.add_argument("--skip-mini", action="store_true", help="measure the efficiency alone")
    arguments = parser.parse_args()
    measured_on = machine()
    report: dict[str, Any] = {
        "command": f"python -m benchmarks.farm {' '.join(sys.argv[1:])}".strip(),
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "ray")},
        "efficiency": {str(workers): efficiency(workers) for workers in arguments.workers},
    }
    if not arguments.skip_mini:
        report["mini"] = mini()
    report["targets"] = targets(report)
    for target in report["targets"]:
        print(f"{target['target']}: {target['measured']}, {'met' if target['met'] else 'missed'}")
    path = HERE / "results" / f"farm-{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")
    return 0


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What is aimed at, and whether it is met."""
    aims = [
        (
            f"efficiency at {workers} workers >= {WORKERS[int(workers)]}",
            case["farm"],
            WORKERS[int(workers)],
        )
        for workers, case in report["efficiency"].items()
        if int(workers) in WORKERS
    ]
    if "mini" in report:
        ratio = report["mini"]["farm / sequential"]
        aims.append((f"farm / sequential >= {MINI_TARGET}", ratio, MINI_TARGET))
    return [{"target": text, "measured": m, "met": m >= aim} for text, m, aim in aims]


def efficiency(workers: int) -> dict[str, Any]:
    """Time that the work takes at least, over the time it takes."""
    units = workers * UNITS_PER_WORKER
    least_s = math.ceil(units / workers) * UNIT_S
    with ray_cluster(cpus=workers + 2, gpus=0), tempfile.TemporaryDirectory() as folder:
        farm_s, driver_s = farm_time(workers, units, Path(folder))
        pool_s = pool_time(workers, units)
    case = {
        "units": units,
        "pictures": units * BATCH,
        "farm": round(least_s / farm_s, 3),
        "ActorPool": round(least_s / pool_s, 3),
        "driver_ms_per_picture": round(1000 * driver_s / (units * BATCH), 3),
    }
    print(f"{workers} workers: {case}")
    return case


def farm_time(workers: int, units: int, folder: Path) -> tuple[float, float]:
    """Seconds from when all workers are up until all is recorded; those of the driver's CPU."""
    suite = folder / "many.yaml"
    prompts = [f"prompt {number}" for number in range(units * BATCH)]
    write_text(suite, json.dumps({"name": "many", "prompts": prompts, "metrics": ["ocr"]}))
    config = EvalConfig(suites=(str(suite),), device="cpu", batch=BATCH)
    farm = Farm(config, folder, pools(workers))
    start_all(farm)
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    farm.add(MODEL, step=None, name="stand-in")
    while not farm.idle:
        farm.work()
    spent = time.monotonic() - begun_s, time.process_time() - begun_cpu_s
    ledger = farm.evaluations["many"].ledger
    (checkpoint,) = ledger.checkpoints("weights")
    assert len(ledger.pictures(checkpoint.checkpoint)) == units * BATCH
    assert len(list(ledger.scored(checkpoint.checkpoint))) == units * BATCH
    for pool in farm.dispatcher.pools.values():
        for worker in [*pool.workers]:
            pool.remove(worker)
    farm.close()
    return spent


def pools(workers: int) -> list[Pool]:
    """Pools as the farm's, of stand-ins."""
    generator = ray.remote(num_cpus=1)(SlowGenerator)
    scorer, reporter = ray.remote(num_cpus=1)(QuickScorer), ray.remote(num_cpus=0)(NoReporter)
    never = 10**9
    generators = Pool(
        GENERATORS, lambda: generator.remote(UNIT_S), most=workers, recycle_after=never
    )
    scorers = Pool(SCORERS, lambda: scorer.remote(), most=2, recycle_after=never)
    reporters = Pool(REPORTERS, lambda: reporter.remote(), most=1, recycle_after=never)
    generators.feeds = scorers
    return [generators, scorers, reporters]


def start_all(farm: Farm) -> None:
    """Return when every worker is up."""
    pool_module.IDLE_S = math.inf  # those that are up first wait for the last
    for pool in farm.dispatcher.pools.values():
        while len(pool.workers) < pool.most:
            pool.start_worker()
    while any(pool.up < pool.most for pool in farm.dispatcher.pools.values()):
        list(farm.dispatcher.finished(0.1))


def pool_time(workers: int, units: int) -> float:
    """The same by Ray's own pool: no ledger, no lease, no second try."""
    generator = ray.remote(num_cpus=1)(SlowGenerator)
    actors = [generator.remote(UNIT_S) for _ in range(workers)]
    ray.get([actor.started.remote() for actor in actors])
    unit = Generate(
        suite="many",
        checkpoint="c",
        path="p",
        folder=Path(),
        subfolder="s",
        sampling=None,
        items=(),
    )
    begun_s = time.monotonic()
    pool = ActorPool(actors)
    for _ in pool.map_unordered(lambda actor, one: actor.run.remote(one), [unit] * units):
        pass
    spent_s = time.monotonic() - begun_s
    for actor in actors:
        ray.kill(actor)
    return spent_s


def mini() -> dict[str, Any]:
    """Pictures/s on the mini model: the farm, and a script that does one thing after the other."""
    with tempfile.TemporaryDirectory() as folder:
        config = mini_config(Path(folder))
        pictures = len(load_suite(config.suites[0]).items())
        farm_per_s, with_start_per_s = mini_farm(config, Path(folder) / "out")
        sequential_per_s, sequential_with_start_per_s = mini_sequential(config)
    result = {
        "pictures": pictures,
        "farm_pictures_per_s": round(farm_per_s, 2),
        "sequential_pictures_per_s": round(sequential_per_s, 2),
        "farm / sequential": round(farm_per_s / sequential_per_s, 2),
        "farm_with_start_pictures_per_s": round(with_start_per_s, 2),
        "sequential_with_start_pictures_per_s": round(sequential_with_start_per_s, 2),
    }
    print(f"mini: {result}")
    return result


def mini_config(folder: Path) -> EvalConfig:
    """The mini suite with more pictures of each prompt, on the cores that there are."""
    suite = load_suite("mini")
    many = {
        **{
            key: getattr(suite.sampling, key)
            for key in ("sampler_steps", "guidance", "height", "width")
        },
        "name": "mini_many",
        "prompts": [prompt.text for prompt in suite.prompts],
        "metrics": ["ocr", "clip_score", "frechet"],
        "samples_per_prompt": MINI_SAMPLES,
    }
    write_text(folder / "mini_many.yaml", json.dumps(many))
    return EvalConfig(
        suites=(str(folder / "mini_many.yaml"),),
        networks=NetworksConfig(clip=str(MODEL / "clip")),
        references=MODEL / "references.tar",
        device="cpu",
        precision="fp32",
    )


def mini_farm(config: EvalConfig, out: Path) -> tuple[float, float]:
    """Pictures/s from the first unit's lease to the last one's end; and with all that starts."""
    begun_s = time.monotonic()
    score(config, [find_named(str(MODEL))], out)
    spent_s = time.monotonic() - begun_s
    lines = [json.loads(line) for line in (out / "work.jsonl").read_text().splitlines()]
    made = [line for line in lines if line["pool"] == "generators"]
    ended = [
        line["time"] for line in lines if line["event"] == "done" and line["pool"] != "reporters"
    ]
    pictures = sum(line["pictures"] for line in made if line["event"] == "done")
    # A generator's first unit holds the loading of the model: it is left out on both sides.
    first_done_s = min(line["time"] for line in made if line["event"] == "done")
    return (pictures - config.batch) / (max(ended) - first_done_s), pictures / spent_s


def mini_sequential(config: EvalConfig) -> tuple[float, float]:
    """One thing after the other, each picture by itself."""
    from trainer.models.pipeline import load_pipeline
    from trainer.models.samplers import new_sampler

    begun_s = time.monotonic()
    suite = load_suite(config.suites[0])
    pipeline = load_pipeline(MODEL)
    pipeline.scheduler = new_sampler(pipeline.scheduler.config, "v_prediction")
    networks = Networks(config.networks)
    metrics = [get(name, config.networks) for name in suite.metrics]
    blank = Batch(
        [Asked(image=make_pictures(pipeline, suite.sampling, suite.items()[:1])[0])], networks
    )
    for metric in metrics:
        metric.look(blank)  # loads its network
    loaded_s = time.monotonic()
    look_at(_references(config, networks), metrics[2:])
    references_s = time.monotonic() - loaded_s
    started_s = time.monotonic()
    asked = [
        Asked(image=make_pictures(pipeline, suite.sampling, [item])[0], prompt=item.text)
        for item in suite.items()
    ]
    look_at([Batch([one], networks) for one in asked], metrics)
    spent_s = time.monotonic() - started_s
    return len(asked) / spent_s, len(asked) / (spent_s + references_s + loaded_s - begun_s)


def look_at(batches: Sequence[Batch], metrics: Sequence[Any]) -> None:
    """Each metric over all the pictures."""
    for metric in metrics:
        for batch in batches:
            metric.look(batch)


def _references(config: EvalConfig, networks: Networks) -> list[Batch]:
    import io

    from PIL import Image

    source = config.references
    assert source is not None
    pictures = [
        Image.open(io.BytesIO(read_picture(source, name))).convert("RGB")
        for name in picture_names(source)
    ]
    return [Batch([Asked(image=picture)], networks) for picture in pictures]


if __name__ == "__main__":
    sys.exit(run_program(main))
