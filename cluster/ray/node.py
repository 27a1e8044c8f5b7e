"""One node's part of a Ray over a SLURM job: how it is started, until it answers, and ended."""

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.exit_codes import MachineFault
from cluster.ranks.processes import kill_session, start_session
from cluster.ray.ports import Ports, plan_ports
from cluster.ray.session import SETTINGS
from cluster.rendezvous import Node, cores

START_TIMEOUT_S = 120.0  # for a part of Ray to answer; 1 to 6 s on a quiet machine
POLL_S = 0.1
REACH_S = 1.0


@contextmanager
def ray_part(node: Node, head: str | None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """This node's part of Ray, and where it answers; it ends with us, however we end.

    `head` is where it joins, None for the head itself. MachineFault if it does not come up.
    """
    # A short path: sockets lie below it, and their names may have 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="letterpress-ray-", dir="/tmp"))
    ports = plan_ports(f"{os.environ['SLURM_JOB_ID']}:{node.name}", is_head=head is None)
    address = f"{own_address(node)}:{ports.answers_at}"
    ray = start_session(
        start_command(node, ports, head, folder),
        log=folder / "start.log",
        env={**SETTINGS, **os.environ, **ports.variables},
        cwd=folder,
    )
    try:
        _await_answer(ray, address, folder / "start.log")
        yield ray, address
    finally:
        kill_session(ray.pid)
        ray.wait()
        shutil.rmtree(folder, ignore_errors=True)


def start_command(
    node: Node,
    ports: Ports,
    head: str | None,
    folder: Path,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """How this node's part is started, with what is the job's of it: Ray would take the machine."""
    where = [f"--address={head}"] if head else ["--head", "--include-dashboard=false"]
    return [
        # The one beside our interpreter: the job's PATH may name another.
        *(str(Path(sys.executable).with_name("ray")), "start", "--block", *where),
        *(f"--node-ip-address={own_address(node)}", f"--temp-dir={folder}", *ports.flags),
        f"--num-cpus={environment.get('SLURM_CPUS_PER_TASK') or cores()}",
        f"--num-gpus={node.ranks}",
    ]


def own_address(node: Node) -> str:
    """The address by which the other nodes reach this one; a node alone needs no other."""
    if _is_address(node.name):
        return node.name
    others = [host for host in node.hosts if host != node.name]
    if not others:
        return "127.0.0.1"
    # The side of us that looks towards them: a name may mean 127.0.1.1 on its own node. No packet.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((others[0], 9))
        return str(probe.getsockname()[0])


def answers(address: str) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError:
        return False
    return True


def _await_answer(ray: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(address):
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
