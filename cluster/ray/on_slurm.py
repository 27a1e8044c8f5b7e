"""A Ray over the nodes of a SLURM job (slurm/evalfarm.sh).

    srun python -m cluster.ray.on_slurm node RUN         on each node: its part of Ray
    python -m cluster.ray.on_slurm address RUN           where it is, once the head answers

The first node, SLURM_PROCID 0, is the head. It publishes its address in the run folder when it can
be reached, and the others join as they come: nobody sleeps for luck, and a node that never comes
holds nobody up. They carry one token, RAY_AUTH_TOKEN, so that nobody else can join or give work.
Nothing is ever ended by name, as `ray stop` does: other Rays of the machine are not ours.
"""

import argparse
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.exit_codes import ExitCode, MachineFault
from cluster.program import run_program
from cluster.ranks.processes import kill_session, start_session
from cluster.ray.ports import Ports, plan_ports
from cluster.ray.session import SETTINGS
from cluster.rendezvous import Node, cores, slurm_node
from cluster.run_folder import RunFolder, read_json, write_json

START_TIMEOUT_S = 120.0  # for a node's part of Ray to answer; 1 to 6 s on a quiet machine
HEAD_TIMEOUT_S = 600.0  # for the head to publish: storage may show a new file a minute late
POLL_S = 0.1
REACH_S = 1.0


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("node", "address"))
    parser.add_argument("run", type=Path, help="the run whose farm it is")
    arguments = parser.parse_args()
    published = RunFolder.existing(arguments.run).farm_head(_job(os.environ))
    if arguments.what == "address":
        print(await_head(published))
        return ExitCode.DONE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.DONE))  # the job is over
    node = slurm_node({"SLURM_GPUS_ON_NODE": "0", **os.environ})
    (_lead if node.number == 0 else _join)(node, published)
    raise MachineFault(f"Ray on {node.name} has ended before the job did")


def await_head(published: Path, timeout_s: float = HEAD_TIMEOUT_S) -> str:
    """Where the head can be reached; MachineFault if it says that it cannot, or nothing."""
    deadline = time.monotonic() + timeout_s
    while not published.exists():
        if time.monotonic() > deadline:
            raise MachineFault(
                f"the head of Ray published no address in {timeout_s:.0f} s: {published.parent} "
                "must be on storage that all nodes share"
            )
        time.sleep(POLL_S)
    head = read_json(published)
    if head["fault"]:
        raise MachineFault(head["fault"])
    return str(head["address"])


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


def start_command(node: Node, ports: Ports, head: str | None, folder: Path) -> list[str]:
    """How this node's part of Ray is started; `head` is where it joins, None for the head."""
    # The one beside our interpreter: the job's PATH may name another.
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
    command += [f"--address={head}"] if head else ["--head", "--include-dashboard=false"]
    return [
        *command,
        *(f"--node-ip-address={own_address(node)}", f"--temp-dir={folder}", *ports.flags),
        # Of the job's share: Ray would take all that the machine has.
        *(f"--num-cpus={_cpus(os.environ)}", f"--num-gpus={node.ranks}"),
    ]


def _lead(node: Node, published: Path) -> None:
    published.parent.mkdir(exist_ok=True)
    try:
        with _ray(node, None) as (ray, address):
            write_json(published, {"address": address, "fault": None})
            print(f"the head of Ray is {node.name}, at {address}", flush=True)
            ray.wait()
    except MachineFault as fault:
        write_json(published, {"address": None, "fault": str(fault)})
        raise


def _join(node: Node, published: Path) -> None:
    with _ray(node, await_head(published)) as (ray, _):
        print(f"{node.name} has joined", flush=True)
        ray.wait()


@contextmanager
def _ray(node: Node, head: str | None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """This node's part of Ray, up, and where it answers; it ends with us, however we end."""
    # A short path: sockets lie below it, and their names may have 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="letterpress-ray-", dir="/tmp"))
    ports = plan_ports(f"{_job(os.environ)}:{node.name}", is_head=head is None)
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


def _await_answer(ray: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(address):
        if ray.poll() is not None or time.monotonic() > deadline:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            why = f"ended: {lines[-1]}" if ray.poll() is not None else "does not answer"
            raise MachineFault(f"Ray at {address} {why}")
        time.sleep(POLL_S)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError:
        return False
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _job(environment: Mapping[str, str]) -> str:
    """This life of the job: one that is queued again has the same number."""
    return f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"


def _cpus(environment: Mapping[str, str]) -> int:
    asked = environment.get("SLURM_CPUS_PER_TASK")
    return int(asked) if asked else cores()


if __name__ == "__main__":
    sys.exit(run_program(main))
