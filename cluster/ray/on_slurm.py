"""A Ray over the nodes of a run's farm jobs on SLURM (slurm/evalfarm.sh).

    srun python -m cluster.ray.on_slurm node RUN         on each node: its part of Ray
    python -m cluster.ray.on_slurm lead RUN -- COMMAND   the farm, or to wait for its turn to be it
    python -m cluster.ray.on_slurm requeue RUN           queue the job again, which ends it

The first of the run's jobs leads: on its first node it starts the head, publishes its address in
the run folder once it can be reached, and runs the farm. All nodes of all jobs join as they come:
nobody sleeps for luck, and a node that never comes holds nobody up. They carry one token, so that
nobody else can join or give work. Nothing is ended by name, as `ray stop` does: other Rays of the
machine are not ours.
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
from cluster.ray.heads import Head, Heads, Life
from cluster.ray.lead import take_part
from cluster.ray.node import answers, ray_part
from cluster.rendezvous import Node, expand_hosts, slurm_node
from cluster.run_folder import RunFolder
from cluster.slurm.commands import own_job, requeue
from cluster.slurm.queue import look_up

POLL_S = 1.0
JOINS_WITHIN_S = 120.0  # to come up, as part of a head that is; a try takes up to 40 s
LOOK_EVERY_S = 30.0  # whether the job's first node is lost


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("node", "lead", "requeue"))
    parser.add_argument("run", type=Path, help="the run whose farm it is")
    parser.add_argument("command", nargs="*", help="what runs the farm, once there is a Ray")
    arguments = parser.parse_args()
    if arguments.what == "requeue":
        requeue_own_job()
        return ExitCode.DONE
    signal.signal(signal.SIGTERM, _leave)
    os.environ.pop("RAY_ADDRESS", None)  # that of another Ray, if the submitting shell had one
    node = slurm_node({"SLURM_GPUS_ON_NODE": "0", **os.environ})
    heads = Heads(RunFolder.existing(arguments.run), Life.ours())
    if arguments.what == "lead":
        return take_part(node, heads, arguments.command)
    be_a_node(node, heads)
    return ExitCode.DONE


def be_a_node(node: Node, heads: Heads) -> None:
    """Be part of the newest head's Ray, and of the next one's when that is over.

    A job whose first node is lost has no script any more, and would hold the others until its time
    is up: what SLURM does without --no-kill, they do here.
    """
    began, looked_s = time.time(), time.monotonic()
    while True:
        head = heads.newest()
        if head and _can_be_joined(head):
            _join(node, heads, head)
            looked_s = time.monotonic()
        elif node.number and time.monotonic() - looked_s > LOOK_EVERY_S:
            looked_s = time.monotonic()
            if _is_lost(node.hosts[0], began):
                print(f"{node.hosts[0]} is lost: queueing again", flush=True)
                return requeue_own_job()
        time.sleep(POLL_S)


def requeue_own_job(environment: Mapping[str, str] = os.environ) -> None:
    """Queue the job that we are in again, which ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM ends us first, and we have more to ask
    job = own_job(environment)
    assert job is not None
    for refused in requeue(job, excluded=()):
        print(f"queued again, but SLURM did not take {refused}", flush=True)


def _leave(*_: object) -> None:
    """The job is over, or preempted: then its script may have a minute yet to queue it again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it twice, and we have to clear up
    sys.exit(ExitCode.STOPPED)


def _is_lost(host: str, began: float) -> bool:
    """Whether SLURM has taken a node from our job, which began then: with --no-kill others stay.

    All nodes of all jobs read one answer.
    """
    job = own_job(os.environ)
    assert job is not None
    ours = look_up({job: began}).job_told_after(job, began)
    if ours is None or not (ours.goes_on and ours.nodes):
        return False
    return host not in expand_hosts(ours.nodes)


def _can_be_joined(head: Head) -> bool:
    return head.code is None and head.address is not None and answers(head.address)


def _join(node: Node, heads: Heads, head: Head) -> None:
    """Be part of a head's Ray until either ends; MachineFault if that is not to be had here.

    It is tried for a while: on a busy machine, or from a cold share, Ray may take its own start for
    failed (`until_up`).
    """
    deadline = time.monotonic() + JOINS_WITHIN_S
    while True:
        try:
            with ray_part(node, head.address, heads.token(head)) as (ray, _):
                print(f"{node.name} has joined", flush=True)
                while ray.poll() is None and heads.newest() == head:
                    time.sleep(POLL_S)
            return
        except (MachineFault, FileNotFoundError):
            if heads.newest() != head or not _can_be_joined(head):
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(run_program(main))
