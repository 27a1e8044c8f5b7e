"""What SLURM's partitions have, to say before the queue what would wait in it for ever."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.slurm.commands import call, checked_nodes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a job asks for."""

    partition: str | None
    """None: the default one."""
    nodes: int
    gpus_per_node: int
    gpu_type: str | None
    cpus_per_node: int
    memory_gb: int | None
    minutes: int


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """Nodes of a partition that are alike."""

    partition: str
    is_default: bool
    is_up: bool
    nodes: int
    gpus: dict[str, int]
    """On each node, by type; of no type under ""."""
    cpus: int
    memory_mb: int
    minutes: float
    """The partition's time limit."""


def check_asked(asked: Asked) -> None:
    """ValueError if no node of the partition could ever run it. One question to SLURM."""
    in_full = ("--noheader", "--exact", "--noconvert")  # else 1024 cores are 1K
    check_fits(asked, parse_sinfo(call("sinfo", *in_full, "--format=%P|%a|%D|%G|%c|%m|%l")))


def check_fits(asked: Asked, groups: list[NodeGroup]) -> None:
    """As `check_asked`, by what is known of the partitions."""
    there = _partition(asked.partition, groups)
    name = f"partition {there[0].partition}"
    if not there[0].is_up:
        raise ValueError(f"{name} takes no jobs now: it is not up; {_partitions(groups)}")
    if asked.minutes > there[0].minutes:
        raise ValueError(
            f"{name} ends jobs after {there[0].minutes / 60:g} h, slurm.hours asks for "
            f"{asked.minutes / 60:g}: ask for less, a run that is not done goes on in the next job"
        )
    memory_mb = 1024 * (asked.memory_gb or 0)
    there = _with_at_least(
        there, "cpus", asked.cpus_per_node, f"{name} has at most {{}} cores a node"
    )
    there = _with_at_least(there, "memory_mb", memory_mb, f"{name} has at most {{}} MB a node")
    there = _with_gpus(asked, there, name)
    if (nodes := sum(group.nodes for group in there)) < asked.nodes:
        raise ValueError(
            f"{name} has {nodes} node{'s' * (nodes != 1)} such as the job asks for, "
            f"ranks.nodes is {asked.nodes}"
        )


def parse_sinfo(text: str) -> list[NodeGroup]:
    """Groups of nodes, of lines of `sinfo --exact --noconvert --format=%P|%a|%D|%G|%c|%m|%l`."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
    return [
        NodeGroup(
            partition=partition.removesuffix("*"),
            is_default=partition.endswith("*"),
            is_up=available == "up",
            nodes=int(nodes),
            gpus=parse_gpus(gres),
            cpus=int(cpus.rstrip("+")),
            memory_mb=int(memory.rstrip("+")),
            minutes=parse_minutes(limit),
        )
        for partition, available, nodes, gres, cpus, memory, limit in rows
    ]


def parse_gpus(gres: str) -> dict[str, int]:
    """GPUs by type, of `gpu:a100:8(S:0-1),gpu:2,nic:1`."""
    gpus: dict[str, int] = {}
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        _, *names, count = ["", *entry.split(":")]
        if names[:1] == ["gpu"] and count.isdigit():
            name = ":".join(names[1:])
            gpus[name] = gpus.get(name, 0) + int(count)
    return gpus


def parse_minutes(limit: str) -> float:
    """Minutes of a time limit such as 30:00, 12:00:00, 2-00:00:00 or infinite."""
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = ([0, 0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _partition(name: str | None, groups: list[NodeGroup]) -> list[NodeGroup]:
    found = [g for g in groups if (g.is_default if name is None else g.partition == name)]
    if not found:
        what = "the cluster has no default partition, so set slurm.partition"
        what = what if name is None else f"slurm.partition {name!r} does not exist"
        raise ValueError(f"{what}: {_partitions(groups)}")
    return found


def _with_at_least(
    groups: list[NodeGroup], key: str, wanted: int, complaint: str
) -> list[NodeGroup]:
    fitting = [group for group in groups if getattr(group, key) >= wanted]
    if not fitting:
        most = max(getattr(group, key) for group in groups)
        raise ValueError(f"{complaint.format(most)}, the job asks for {wanted}")
    return fitting


def _with_gpus(asked: Asked, groups: list[NodeGroup], name: str) -> list[NodeGroup]:
    """Those that have the GPUs asked for."""
    types = sorted({kind for group in groups for kind in group.gpus if kind})
    if asked.gpu_type and asked.gpu_type not in types:
        has = f"has {', '.join(types)}" if types else "names no types"
        raise ValueError(f"{name} has no GPUs of slurm.gpu_type {asked.gpu_type!r}: it {has}")

    def gpus(group: NodeGroup) -> int:
        return group.gpus.get(asked.gpu_type, 0) if asked.gpu_type else sum(group.gpus.values())

    fitting = [group for group in groups if gpus(group) >= asked.gpus_per_node]
    if not fitting:
        raise ValueError(
            f"{name} has at most {max(map(gpus, groups))} GPUs a node, ranks.per_node is "
            f"{asked.gpus_per_node}"
        )
    return fitting


def _partitions(groups: Iterable[NodeGroup]) -> str:
    return f"there is {', '.join(dict.fromkeys(group.partition for group in groups))}"


def nodes_of(partition: str) -> list[str]:
    """The names of a partition's nodes, whatever their state."""
    return list(_node_states("--partition", partition))


def down_nodes(nodes: Iterable[str]) -> list[str]:
    """Those of these nodes that SLURM takes for dead, or that do not answer it."""
    states = _node_states("--nodes", ",".join(checked_nodes(nodes)))
    return [node for node, (state, reason) in states.items() if _is_down(state, reason)]


def _is_down(state: str, reason: str) -> bool:
    # While 22.05 counts cores of the lost job, it shows a node that is down as one that works: only
    # the reason tells. A node that drains has one, too, and is shown as such.
    in_its_place = state in ("allocated", "mixed", "completing") and reason != "none"
    return state.startswith("down") or "*" in state or in_its_place


def _node_states(*chosen: str) -> dict[str, tuple[str, str]]:
    """The state of each node, and why it is not to be used, or `none`."""
    told = call("sinfo", "--noheader", "--Node", "--format=%N|%T|%E", *chosen)
    rows = [line.split("|", 2) for line in told.splitlines() if line.count("|") >= 2]
    return {node: (state, reason) for node, state, reason in rows}
