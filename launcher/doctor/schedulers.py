"""The schedulers that can be reached from here: SLURM, by one sinfo, and a Ray."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cluster.ask import Answer, ask
from cluster.exit_codes import MachineFault
from cluster.ray.session import check_reachable
from cluster.slurm.nodes import parse_gpus
from launcher.doctor.finding import Finding, lacks, not_needed, ok
from launcher.recipe import Recipe

# Partition, nodes, their state, GRES, cores, time limit, the version that the nodes run.
FORMAT = "%R|%D|%t|%G|%c|%l|%v"
GONE = ("down", "drain", "drng", "fail", "maint", "boot", "unk", "no_respond", "inval")
# From here on srun passes no --cpus-per-task on.
SRUN_CHANGED = (22, 5)


@dataclass
class Partition:
    """A SLURM partition."""

    nodes: int = 0
    up: int = 0
    """Nodes that take jobs, now or once they are free."""
    gpus: set[str] = field(default_factory=set)
    """Of a node, such as a100:8."""
    time_limit: str = ""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What sinfo tells."""

    version: str
    partitions: Mapping[str, Partition]

    @property
    def has_gpus(self) -> bool:
        """Whether any node has one."""
        return any(partition.gpus for partition in self.partitions.values())


def ask_slurm(timeout_s: float) -> Answer:
    """One sinfo."""
    return ask(["sinfo", "--noheader", f"--format={FORMAT}"], timeout_s=timeout_s)


def read_slurm(text: str) -> Slurm:
    """The partitions in sinfo's answer."""
    partitions: dict[str, Partition] = {}
    version = "?"
    for line in filter(None, text.splitlines()):
        name, nodes, state, gres, _, limit, version_here = (
            cell.strip() for cell in line.split("|")
        )
        partition = partitions.setdefault(name, Partition(time_limit=limit))
        partition.nodes += int(nodes)
        partition.up += 0 if state.startswith(GONE) or state.endswith("*") else int(nodes)
        gpus = parse_gpus(gres).items()
        partition.gpus |= {f"{kind}:{count}" if kind else str(count) for kind, count in gpus}
        version = version_here if re.match(r"\d", version_here) else version
    return Slurm(version=version, partitions=partitions)


def ask_ray(address: str | None) -> Answer:
    """Whether somebody listens at RAY_ADDRESS."""
    if not address:
        return Answer(silence="RAY_ADDRESS is not set")
    try:
        check_reachable(address)
    except MachineFault as error:
        return Answer(silence=str(error))
    return Answer(text=f"RAY_ADDRESS is {address}" + (", which answers" if ":" in address else ""))


def scheduler_findings(recipe: Recipe, sinfo: Answer, ray: Answer) -> Iterator[Finding]:
    """Rows on SLURM, what it gives a task, and Ray."""
    slurm = read_slurm(sinfo.text) if sinfo.text is not None else None
    yield slurm_finding(recipe, slurm, sinfo.silence)
    yield srun_finding(os.environ, slurm)
    yield _ray(os.environ.get("RAY_ADDRESS"), ray)


def slurm_finding(recipe: Recipe, slurm: Slurm | None, silence: str) -> Finding:
    """SLURM's partitions; it is needed for more than one node."""
    nodes = recipe.ranks.nodes
    if slurm:
        return _slurm(slurm, nodes)
    if nodes > 1:
        mend = "run this on the cluster's login node, or --set ranks.nodes=1"
        return lacks("SLURM", f"{silence}; ranks.nodes is {nodes}", mend)
    return not_needed("SLURM", f"{silence}; --on local does without")


def srun_finding(environment: Mapping[str, str], slurm: Slurm | None) -> Finding:
    """Whether srun, in this job, gives a task the cores that the job asked for."""
    what, cpus = "srun's cores", environment.get("SLURM_CPUS_PER_TASK")
    if "SLURM_JOB_ID" not in environment:
        return not_needed(what, "no SLURM job here; slurm/*.sh sets SRUN_CPUS_PER_TASK")
    if cpus is None or "SRUN_CPUS_PER_TASK" in environment:
        return ok(what, f"{environment.get('SRUN_CPUS_PER_TASK', 'not divided')} a task")
    if slurm and _release(slurm.version) < SRUN_CHANGED:
        return ok(what, f"{cpus} a task, passed on by SLURM {slurm.version}")
    found = f"1 a task, though the job has {cpus}: srun passes no --cpus-per-task on since 22.05"
    return lacks(what, found, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")


def _slurm(slurm: Slurm, nodes: int) -> Finding:
    shown = "; ".join(
        f"{name}: {part.up} of {part.nodes} nodes up"
        + (f", GPUs {' or '.join(sorted(part.gpus))}" if part.gpus else "")
        + (", no time limit" if part.time_limit == "infinite" else f", up to {part.time_limit}")
        for name, part in slurm.partitions.items()
    )
    found = f"{slurm.version}, {shown or 'no partition'}"
    if nodes > max((part.nodes for part in slurm.partitions.values()), default=0):
        mend = "--set ranks.nodes=…, at most what a partition has"
        return lacks("SLURM", f"{found}; ranks.nodes is {nodes}", mend)
    return ok("SLURM", found)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _ray(address: str | None, answer: Answer) -> Finding:
    if not address:
        return not_needed("Ray", "RAY_ADDRESS is not set: the farm starts a Ray of its own")
    if answer.text is None:
        return lacks("Ray", answer.silence, "`unset RAY_ADDRESS`, or start that Ray")
    return ok("Ray", answer.text)
