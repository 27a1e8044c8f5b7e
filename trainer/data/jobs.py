"""Doing the jobs of a build, a shard each: in turn, on the cores of this machine, or on Ray."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

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
    """On the Ray at RAY_ADDRESS, or one of our own; all its nodes must see the same folders."""
    import ray

    # A shard is one task and its outcome a few hundred kilobytes, so that plain tasks do: Ray Data
    # streams rows through memory, and here the rows stay in their files.
    do = ray.remote(num_cpus=1)(_do)
    place = ray.put(folder)
    yield from (ray.get(task) for task in [do.remote(place, job) for job in enumerate(jobs)])


def _do(folder: Path, numbered: tuple[int, Job]) -> Outcome:
    number, job = numbered
    try:
        return job(folder / f"{number:05d}.tar")
    except UnusableShard as error:
        return str(error)
