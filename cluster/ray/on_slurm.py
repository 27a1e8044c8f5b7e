"""A Ray over the nodes of a SLURM job (slurm/evalfarm.sh).

    srun python -m cluster.ray.on_slurm node RUN         on each node: its part of Ray
    python -m cluster.ray.on_slurm address RUN           where it is, once the head answers
    python -m cluster.ray.on_slurm requeue RUN           queue the job again, which ends it

The first node, SLURM_PROCID 0, is the head. It publishes its address in the run folder once it can
be reached, and the others join as they come: nobody sleeps for luck, and a node that never comes
holds nobody up. They carry one token, RAY_AUTH_TOKEN, so that nobody else can join or give work.
Nothing is ended by name, as `ray stop` does: other Rays of the machine are not ours.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from cluster.exit_codes import ExitCode, MachineFault
from cluster.program import run_program
from cluster.ray.node import answers, ray_part
from cluster.rendezvous import Node, slurm_node
from cluster.run_folder import RunFolder, read_json, write_json
from cluster.slurm.commands import own_job, requeue
from cluster.slurm.nodes import down_nodes

HEAD_TIMEOUT_S = 600.0  # for the head to publish: storage may show a new file a minute late
POLL_S = 0.1
LOOK_AGAIN_AFTER_S = 30.0  # once a node's part of Ray has ended; SLURM is asked no more often


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("node", "address", "requeue"))
    parser.add_argument("run", type=Path, help="the run whose farm it is")
    arguments = parser.parse_args()
    published = RunFolder.existing(arguments.run).farm_head(_life(os.environ))
    if arguments.what == "node":
        _be_a_node(slurm_node({"SLURM_GPUS_ON_NODE": "0", **os.environ}), published)
    elif arguments.what == "address":
        print(await_head(published))
    else:
        requeue_own_job()
    return ExitCode.DONE


def await_head(published: Path, timeout_s: float = HEAD_TIMEOUT_S) -> str:
    """Where the head can be reached; MachineFault if it says that it has ended, or nothing."""
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


def join(node: Node, published: Path) -> bool:
    """Be part of the head's Ray as long as that lasts; whether to look for it again.

    A job whose first node is lost has no script any more, and would hold the others until its time
    is up: what SLURM does without --no-kill, they do here.
    """
    head = await_head(published)
    if answers(head):
        with ray_part(node, head) as (ray, _):
            print(f"{node.name} has joined", flush=True)
            ray.wait()
    elif down_nodes([node.hosts[0]]):
        print(f"{node.hosts[0]} is lost, and Ray's head with it: queueing again", flush=True)
        requeue_own_job()
        return False
    return True


def requeue_own_job(environment: Mapping[str, str] = os.environ) -> None:
    """Queue the job that we are in again, which ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM ends us first, and we have more to ask
    job = own_job(environment)
    assert job is not None
    for refused in requeue(job, excluded=()):
        print(f"queued again, but SLURM did not take {refused}", flush=True)


def _be_a_node(node: Node, published: Path) -> None:
    # The job is over, or preempted: then its script may have a minute yet to queue it again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.STOPPED))
    if node.number == 0:
        _lead(node, published)
    while join(node, published):
        time.sleep(LOOK_AGAIN_AFTER_S)


def _lead(node: Node, published: Path) -> None:
    """Be the head until it ends, which is a fault while the job lasts."""
    published.parent.mkdir(exist_ok=True)
    fault = f"the head of Ray, on {node.name}, has ended"
    try:
        with ray_part(node, None) as (ray, address):
            write_json(published, {"address": address, "fault": None})
            print(f"the head of Ray is {node.name}, at {address}", flush=True)
            ray.wait()
        raise MachineFault(fault)
    except MachineFault as error:
        fault = str(error)
        raise
    finally:
        write_json(published, {"address": None, "fault": fault})


def _life(environment: Mapping[str, str]) -> str:
    """This life of the job: one that is queued again has the same number."""
    return f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"


if __name__ == "__main__":
    sys.exit(run_program(main))
