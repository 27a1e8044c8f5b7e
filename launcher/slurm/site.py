"""How SLURM is asked for nodes: a section of the recipe, and below it a file of the site's."""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import build, read_yaml

# Each is a word of an #SBATCH line: nothing that ends the word or the line.
WORD = re.compile(r"[^\s'\"\\#`$;<>]+")


# Flags that would undo what a job's script relies on, and what does instead what they are for.
OURS = {
    "--array": "does one thing several times: `submit --sweep` starts several runs, "
    "slurm.farm.jobs several jobs of a farm",
    "--output": "would hide from `letterpress status` what the job prints: leave it out",
    "--signal": "is how the job hears of its time limit: slurm.save_before_end_s says when",
}


@dataclass(frozen=True, kw_only=True)
class FarmJobConfig:
    """The farm as jobs of its own, which start when the training has.

    Account, hours and python are the training's. They may be preempted and lose nodes at any
    moment.
    """

    jobs: int = 1
    """Jobs of a job array: each adds its nodes when there is room for them."""
    nodes: int = 1
    """Nodes of each job."""
    gpus_per_node: int = 1
    """0 where eval.device is cpu."""
    cpus_per_node: int = 8
    """Cores: one for each generator and each scorer."""
    partition: str | None = None
    """Where it queues, such as where jobs may be preempted; null: where the training does."""
    qos: str | None = None
    """Quality of service; null: the training's."""
    flags: tuple[str, ...] = ()
    """Further flags of sbatch."""

    def __post_init__(self) -> None:
        _check_words(self, ("partition", "qos"))
        _check_flags(self, ("flags",))
        if min(self.jobs, self.nodes, self.cpus_per_node) < 1 or self.gpus_per_node < 0:
            raise ValueError(
                "jobs, nodes and cpus_per_node must be at least 1, gpus_per_node at least 0, got "
                f"{self.jobs}, {self.nodes}, {self.cpus_per_node} and {self.gpus_per_node}"
            )


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """How SLURM is asked for nodes. What the recipe does not say, the site's file does.

    That is the file named by LETTERPRESS_SITE, else ~/.config/letterpress/site.yaml, with these
    same keys. SBATCH_… variables do not count.
    """

    partition: str | None = None
    """Where the job queues; null: the cluster's default."""
    account: str | None = None
    """Who pays; null: your default account."""
    qos: str | None = None
    """Quality of service; null: your default."""
    constraint: str | None = None
    """Features that the nodes must have, such as `a100-80gb&ib`."""
    gpu_type: str | None = None
    """The GPUs' GRES type, such as a100; null: any. `sinfo -o %G` shows them."""
    cpus_per_gpu: int = 4
    """Cores for each rank: one computes, the others read samples."""
    memory_gb: int | None = None
    """Host memory on each node; null: what the cluster gives to a job that does not ask."""
    hours: float = 24.0
    """Time limit of a job. A run that is not done by then saves and is queued again."""
    save_before_end_s: int = 300
    """How long before the time limit the run is told to save."""
    exclude_h: float = 24.0
    """How long a node that a failure is blamed on is not used again by the run."""
    flags: tuple[str, ...] = ()
    """Further flags of sbatch, such as [--exclusive, --reservation=spring]."""
    srun_flags: tuple[str, ...] = ()
    """Flags of srun for the agents, such as [--container-image=train.sqsh] where Pyxis is."""
    inside: tuple[str, ...] = ()
    """What the agents are started by, such as [apptainer, exec, --nv, train.sif]."""
    python: Path | None = None
    """The interpreter on the nodes; null: the one that runs letterpress."""
    farm: FarmJobConfig | None = None
    """A second job that scores the checkpoints of a recipe with an eval section; null: none."""

    def __post_init__(self) -> None:
        _check_words(self, ("partition", "account", "qos", "constraint", "gpu_type"))
        _check_flags(self, ("flags", "srun_flags"))
        if self.farm and (self.inside or self.srun_flags):
            raise ValueError(
                "farm starts its programs as they are, without inside and srun_flags: leave it out "
                "and start slurm/evalfarm.sh by hand, changed to what your containers need"
            )
        for key in ("cpus_per_gpu", "memory_gb", "hours", "exclude_h"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{key} must be a positive number, got {value:g}")
        if not 0 <= self.save_before_end_s < 3600 * self.hours:
            raise ValueError(
                f"save_before_end_s must be from 0 to the time limit of {self.hours:g} h, "
                f"got {self.save_before_end_s}"
            )


def minutes(slurm: SlurmConfig) -> int:
    """The time limit of a job, as SLURM counts it."""
    return math.ceil(60 * slurm.hours)


def site_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where the site says how its SLURM is asked; None if it does not."""
    named = environment.get("LETTERPRESS_SITE")
    if named:
        return Path(named)
    configs = environment.get("XDG_CONFIG_HOME")
    usual = (Path(configs) if configs else Path.home() / ".config") / "letterpress" / "site.yaml"
    return usual if usual.exists() else None


def site_keys(path: Path | None) -> dict[str, Any]:
    """What a site's file says; ValueError in one line that names the file."""
    if path is None:
        return {}
    keys = read_yaml(path)
    try:
        build(SlurmConfig, keys)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return keys


def _check_words(config: object, keys: Iterable[str]) -> None:
    for key in keys:
        value = getattr(config, key)
        if value is not None and not WORD.fullmatch(value):
            raise ValueError(f"{key} must be one plain word, got {value!r}")


def _check_flags(config: object, keys: Iterable[str]) -> None:
    for key in keys:
        for flag in getattr(config, key):
            if not (flag.startswith("--") and WORD.fullmatch(flag)):
                raise ValueError(f"{key} takes flags such as --exclusive, got {flag!r}")
            if cure := OURS.get(flag.partition("=")[0]):
                raise ValueError(f"{key} must not hold {flag}, which {cure}")
