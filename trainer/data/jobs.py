"""Doing the jobs of a build, a shard each: in turn, on the cores of this machine, or on Ray."""

import logging
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.tars import Job, Part, UnusableShard

Outcome = Part | str
"""A shard, or what is broken about it."""
Runner = Callable[[Sequence[Job], Path], Iterator[Outcome]]
"""Does jobs that write into a folder; yields their outcomes in the order of the jobs."""


def in_turn(jobs: Sequence[Job], folder: Path) -> Iterator[Outcome]:
    """One job after the other, in this process."""
    return (_do(folder, numbered) for numbered in enumerate(jobs))


def in_processes(workers: int) -> Runner:
    """A runner that keeps `workers` processes of this machine busy."""

    def run(jobs: Sequence[Job], folder: Path) -> Iterator[Outcome]:
        if min(workers, len(jobs)) < 2:
            yield from in_turn(jobs, folder)
            return
        # Not forked: pyarrow has threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(jobs)), context) as pool:
            yield from pool.map(partial(_do, folder), enumerate(jobs))

    return run


def on_ray(jobs: Sequence[Job], folder: Path) -> Iterator[Outcome]:
    """On the Ray at RAY_ADDRESS, or one of our own; all its nodes must see the same folders.

    By Ray Data, a row for each shard: it does again what a lost node was doing, and starts no more
    than the cluster can hold.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False  # there is one already
    place = ray.put((folder, list(jobs)))

    def do(row: dict[str, Any]) -> dict[str, Any]:
        folder, jobs = ray.get(place)
        number = int(row["number"])
        return {"outcome": pickle.dumps(_do(folder, (number, jobs[number])))}

    numbers = [{"number": number} for number in range(len(jobs))]
    shards = ray.data.from_items(numbers, override_num_blocks=len(jobs))
    for row in shards.map(do, num_cpus=1).iter_rows():
        yield pickle.loads(row["outcome"])  # of our own making, a moment ago


def _do(folder: Path, numbered: tuple[int, Job]) -> Outcome:
    number, job = numbered
    try:
        return job(folder / f"{number:05d}.tar")
    except UnusableShard as error:
        return str(error)
