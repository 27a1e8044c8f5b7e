"""What a node finds out about itself before an attempt."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.exit_codes import MachineFault
from cluster.preflight.gpus import Gpu, NoGpus, settled_gpus, visible_gpus
from cluster.preflight.storage import Storage, measure
from cluster.provenance import versions
from cluster.rendezvous import Node, cores

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One node, as it sees itself."""

    host: str
    ranks: int
    cores: int
    """Those that the agent may use, and so its ranks."""
    machine_cores: int
    job_cores: int | None
    """What SLURM gave the job on this node; None: no job of SLURM."""
    srun_cpus_per_task: str | None
    shared_memory_bytes: int | None
    """Free in /dev/shm; None: there is none."""
    storage: Storage
    versions: dict[str, str]
    gpus: tuple[Gpu, ...]
    no_gpus: str | None
    """Why there are none to be looked at."""
    driver_error: str | None
    """What came instead of an answer."""
    promised_gpus: int | None
    """What SLURM gave the job on this node; None: nobody promised any."""

    @property
    def reducing_gpus(self) -> int:
        """How many take part in all-reduces; 0: the node does it on a core."""
        return min(len(self.gpus), self.ranks)


def gather(node: Node, folder: Path, environment: Mapping[str, str]) -> Facts:
    """Look at this node; `folder` is one of the run's, on storage that all nodes share."""
    promised = environment.get("SLURM_GPUS_ON_NODE")
    gpus, no_gpus, driver_error = _gpus(environment, promised=promised is not None)
    return Facts(
        host=node.name,
        ranks=node.ranks,
        cores=cores(),
        machine_cores=os.cpu_count() or 1,
        job_cores=job_cores(environment.get("SLURM_JOB_CPUS_PER_NODE"), node.number),
        srun_cpus_per_task=environment.get("SRUN_CPUS_PER_TASK"),
        shared_memory_bytes=_shared_memory(),
        storage=measure(folder, node.name),
        versions={"python": sys.version.split()[0], **versions()},
        gpus=gpus,
        no_gpus=no_gpus,
        driver_error=driver_error,
        promised_gpus=int(promised) if promised else None,
    )


def from_plain(plain: Mapping[str, Any]) -> Facts:
    """The facts that another node sent."""
    gpus = (Gpu(**{**gpu, "processes": tuple(gpu["processes"])}) for gpu in plain["gpus"])
    return Facts(**{**plain, "storage": Storage(**plain["storage"]), "gpus": tuple(gpus)})


def job_cores(per_node: str | None, number: int) -> int | None:
    """The job's cores on the node of this number, from SLURM's `32(x2),16`."""
    counts: list[int] = []
    for cores_each, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", per_node or ""):
        counts += [int(cores_each)] * int(nodes or 1)
    return counts[number] if number < len(counts) else None


def _gpus(
    environment: Mapping[str, str], *, promised: bool
) -> tuple[tuple[Gpu, ...], str | None, str | None]:
    look = settled_gpus if promised else visible_gpus  # nobody promised that others would leave
    try:
        return tuple(look(environment)), None, None
    except NoGpus as reason:
        return (), str(reason), None
    except MachineFault as error:
        return (), None, str(error)


def _shared_memory() -> int | None:
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize
