"""One node's part of a Ray over a SLURM job: how it is started, until it answers, and ended."""

import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.exit_codes import MachineFault
from cluster.ranks.processes import kill_session, start_session
from cluster.ray.ports import Ports, plan_ports
from cluster.ray.session import SETTINGS, token_variables
from cluster.rendezvous import Node, cores
from cluster.slurm.nodes import nodes_of

START_TIMEOUT_S = 120.0  # for a part of Ray to be up; 9 s on a quiet machine
STARTED = "Ray runtime started"
POLL_S = 0.1
REACH_S = 1.0
OUTSIDE = "192.0.2.1"  # an address that nobody has (RFC 5737)


@contextmanager
def ray_part(
    node: Node, head: str | None, token: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """This node's part of Ray, and where it answers; it ends with us, however we end.

    `head` is where it joins, None for the head itself. MachineFault if it does not come up: to try
    again may help (`until_up`).
    """
    # A short path: sockets lie below it, and their names may have 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="letterpress-ray-", dir="/tmp"))
    what = "node" if head else "head"  # a node may have both
    ports = plan_ports(f"{os.environ['SLURM_JOB_ID']}:{node.name}:{what}", is_head=head is None)
    host = own_address(node, [head.rpartition(":")[0]] if head else neighbours(node))
    address = f"{host}:{ports.answers_at}"
    ray = start_session(
        # Ray lets everybody write into its folder (ray 2.60); nobody gets through ours.
        [*start_command(host, ports, folder / "r"), *share(node, head)],
        log=folder / "start.log",
        env={**SETTINGS, **os.environ, **ports.variables, **token_variables(token)},
        cwd=folder,
    )
    try:
        _await_start(ray, address, folder / "start.log")
        yield ray, address
    finally:
        kill_session(ray.pid)
        ray.wait()
        shutil.rmtree(folder, ignore_errors=True)


def start_command(host: str, ports: Ports, folder: Path) -> list[str]:
    """How a part of Ray is started, but for what it is a part of and what it gives."""
    return [
        # The one beside our interpreter: the job's PATH may name another.
        *(str(Path(sys.executable).with_name("ray")), "start", "--block"),
        *(f"--node-ip-address={host}", f"--temp-dir={folder}", *ports.flags),
    ]


def share(node: Node, head: str | None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What of the node is the job's, which a part that joins gives: Ray would take the machine.

    The head gives nothing, for its job's nodes join it like any other.
    """
    if head is None:
        return ["--head", "--include-dashboard=false", "--num-cpus=0", "--num-gpus=0"]
    cpus = environment.get("SLURM_CPUS_PER_TASK") or cores()
    return [f"--address={head}", f"--num-cpus={cpus}", f"--num-gpus={node.ranks}"]


def neighbours(node: Node, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Nodes that may want to reach this one: the job's others, else the partition's."""
    hosts = [host for host in node.hosts if host != node.name]
    if hosts or _is_address(node.name):
        return hosts
    return [host for host in nodes_of(environment["SLURM_JOB_PARTITION"]) if host != node.name]


def own_address(node: Node, others: Sequence[str]) -> str:
    """The address by which the others reach this node; MachineFault if it has none.

    Where there are no others it needs none but the loopback's.
    """
    if _is_address(node.name):
        return node.name
    if not others:
        return "127.0.0.1"
    # The side of us that looks towards them: a name may mean 127.0.1.1 on its own node. No packet.
    # Where each is turned off, and so may have no address, the side that looks out.
    for other in (*others, OUTSIDE):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        ):
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
    raise MachineFault(
        f"{node.name} knows no address of {', '.join(others)}, and has no network that leads out: "
        "they could not reach its Ray"
    )


def answers(address: str) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError:
        return False
    return True


def _await_start(ray: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Wait until Ray says that it is up; its port answers before it knows."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (STARTED in log.read_text(errors="replace") and answers(address)):
        if ray.poll() is not None or time.monotonic() > deadline:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            why = f"ended: {lines[-1]}" if ray.poll() is not None else "does not answer"
            raise MachineFault(f"Ray at {address} {why}")
        time.sleep(POLL_S)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
