"""Where the ranks of an attempt meet: which nodes there are, and one address for all."""

import hashlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.exit_codes import MachineFault
from cluster.run_folder import AttemptFolder, read_json, write_json

# Debian's and most other kernels hand out ports from 32768 on; some sites from 9000. Below both.
FIRST_PORT, LAST_PORT = 20_000, 29_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
WAIT_S = 600.0
POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Node:
    """This node among those of the attempt."""

    name: str
    """As the scheduler calls it."""
    number: int
    nodes: int
    address: str
    """The first node's, as the others reach it."""
    ranks: int
    """Ranks per node."""
    hosts: tuple[str, ...] = ()
    """All of the attempt, by number; left out where there is one."""

    @property
    def numbers(self) -> range:
        """Those of this node's ranks, among all."""
        return range(self.number * self.ranks, (self.number + 1) * self.ranks)


def local_node(ranks: int) -> Node:
    """The only node of a run on this machine."""
    return Node(name=socket.gethostname(), number=0, nodes=1, address="127.0.0.1", ranks=ranks)


def node_of(hosts: Sequence[str], number: int, ranks: int, address: str | None = None) -> Node:
    """One of several nodes that are known by their names; `address` is the first one's.

    Without it the names are addresses.
    """
    if not 0 <= number < len(hosts):
        raise ValueError(f"--node {number} is none of the {len(hosts)} hosts, counted from 0")
    return Node(
        name=hosts[number],
        number=number,
        nodes=len(hosts),
        address=address or hosts[0],
        ranks=ranks,
        hosts=tuple(hosts),
    )


def slurm_node(environment: Mapping[str, str]) -> Node:
    """This node of a SLURM job with one task per node; a rank for each of its GPUs."""
    try:
        hosts = expand_hosts(environment["SLURM_JOB_NODELIST"])
        return Node(
            name=environment["SLURMD_NODENAME"],
            number=int(environment["SLURM_NODEID"]),
            nodes=int(environment["SLURM_JOB_NUM_NODES"]),
            address=hosts[0],
            ranks=int(environment["SLURM_GPUS_ON_NODE"]),
            hosts=tuple(hosts),
        )
    except KeyError as error:
        raise ValueError(
            f"{error.args[0]} is not set: the agent must be a task of a SLURM job that asks for "
            "GPUs (--gpus-per-node), started by srun"
        ) from None


def expand_hosts(nodelist: str) -> list[str]:
    """The hosts that SLURM writes as `gpu[1-3,5],login1`, by SLURM's own tool."""
    command = ["scontrol", "show", "hostnames", nodelist]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return found.stdout.split()


def publish_address(attempt: AttemptFolder, node: Node, key: str) -> tuple[str, int]:
    """Choose a port on the first node and let the other nodes know it.

    Ranks of an earlier attempt that still look for each other find nobody: each has its own port.
    """
    port = free_port(f"{key}:{attempt.number}")
    write_json(attempt.rendezvous, {"address": node.address, "port": port})
    return node.address, port


def await_address(attempt: AttemptFolder, wait_s: float = WAIT_S) -> tuple[str, int]:
    """What the first node published; MachineFault if it does not."""
    deadline = time.monotonic() + wait_s
    while not attempt.rendezvous.exists():
        if time.monotonic() > deadline:
            raise MachineFault(
                f"the first node published no address in {wait_s:.0f} s: {attempt.root} must be on "
                "storage that all nodes share"
            )
        time.sleep(POLL_S)
    meeting = read_json(attempt.rendezvous)
    return meeting["address"], meeting["port"]


def free_port(key: str) -> int:
    """A port that nobody listens on here and the kernel hands to nobody.

    `key` (a run's path, a job's id) spreads the choices of neighbours over the range.
    """
    return free_ports(key, 1)[0]


def free_ports(key: str, number: int) -> list[int]:
    """So many such ports in a row."""
    first, last = FIRST_PORT, min(LAST_PORT, _first_ephemeral_port() - 1)
    if last <= first:
        first = 1024
    if last <= first:  # a site that hands out all of them: the test below must do
        first, last = FIRST_PORT, LAST_PORT
    start = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    choices = last - first + 2 - number
    for offset in range(choices):
        port = first + (start + offset) % choices
        row = list(range(port, port + number))
        if all(map(_is_free, row)):
            return row
    raise MachineFault(f"no {number} ports in a row from {first} to {last} are free")


def _is_free(port: int) -> bool:
    """Whether one can listen there, at IPv4 and at IPv6: torch does at both."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError:
        return False
    return True


def _first_ephemeral_port() -> int:
    try:
        return int(re.split(r"\s+", EPHEMERAL_RANGE.read_text())[0])
    except OSError:
        return 32_768


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))
