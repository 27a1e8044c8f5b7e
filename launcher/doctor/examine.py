"""Everything is asked at once, each with a limit; what was answered becomes the table's rows."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster.ask import Answer
from launcher.doctor.files import ask_farm, file_findings
from launcher.doctor.finding import Finding
from launcher.doctor.gpus import ask_gpus, ask_installed, gpu_findings, torch_findings
from launcher.doctor.machine import machine_findings
from launcher.doctor.packages import package_findings
from launcher.doctor.schedulers import ask_ray, ask_slurm, read_slurm, scheduler_findings
from launcher.doctor.storage import ask_storage, storage_findings
from launcher.plan.hours import checkpoint_bytes
from launcher.plan.model import open_model
from launcher.plan.plan import needed_gib, stage_memories
from launcher.recipe import Recipe, check_ranks

# All of it stays below 20 s; importing torch from a network file system takes most of that.
QUICK_S, IMPORT_S = 8.0, 17.0


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What other programs said."""

    slurm: Answer
    ray: Answer
    gpus: Answer
    installed: Answer
    storage: Answer
    farm: Answer


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What the recipe takes, where its model is here to be counted; else null."""

    host_bytes: float | None = None
    """Of tensors, all ranks of a node together, where they compute on the CPU."""
    gpu_gib: float | None = None
    run_bytes: float | None = None
    """Of checkpoints and exports that stay."""


def ask_all(recipe: Recipe, runs: Path) -> Answers:
    """Ask everybody at once."""
    with ThreadPoolExecutor() as pool, tempfile.TemporaryDirectory() as folder:
        slurm = pool.submit(ask_slurm, QUICK_S)
        ray = pool.submit(ask_ray, os.environ.get("RAY_ADDRESS"))
        gpus = pool.submit(ask_gpus, QUICK_S)
        installed = pool.submit(ask_installed, IMPORT_S)
        storage = pool.submit(ask_storage, runs, QUICK_S)
        farm = pool.submit(ask_farm, recipe, Path(folder), IMPORT_S)
        return Answers(
            slurm=slurm.result(),
            ray=ray.result(),
            gpus=gpus.result(),
            installed=installed.result(),
            storage=storage.result(),
            farm=farm.result(),
        )


def examine(recipe: Recipe, runs: Path, answers: Answers) -> Iterator[tuple[str, list[Finding]]]:
    """The sections of the table, each with its rows."""
    takes = what_it_takes(recipe)
    has_gpus = answers.gpus.text is not None and bool(answers.gpus.text.strip())
    slurm = answers.slurm.text
    elsewhere = slurm is not None and read_slurm(slurm).has_gpus
    machine = machine_findings(recipe, takes.host_bytes)
    storage = storage_findings(runs, answers.storage, takes.run_bytes)
    yield "this machine", [*machine, *storage]
    gpus = gpu_findings(recipe, answers.gpus, elsewhere, takes.gpu_gib)
    torch = torch_findings(recipe, answers.installed, has_gpus)
    yield "GPUs and software", [*gpus, *torch, *package_findings(recipe)]
    yield "cluster", list(scheduler_findings(recipe, answers.slurm, answers.ray))
    yield "files", list(file_findings(recipe, answers.farm))


def what_it_takes(recipe: Recipe) -> Takes:
    """By the plan; nothing where the plan cannot tell."""
    config, ranks = recipe.train, recipe.ranks.nodes * recipe.ranks.per_node
    try:
        check_ranks(recipe)
        model = open_model(config)
        memory = stage_memories(config, model, ranks)[config.zero.stage]
    except ValueError:
        return Takes()  # a row of its own says that the model is not there
    checkpoint, export = checkpoint_bytes(config, model)
    saves = -(-config.steps // config.save_every)
    kept = min(saves, config.keep.newest + config.keep.best) if config.keep.newest else saves
    return Takes(
        host_bytes=memory.total * recipe.ranks.per_node if config.device == "cpu" else None,
        gpu_gib=needed_gib(memory) if config.device == "cuda" else None,
        run_bytes=kept * checkpoint + saves * export,
    )
