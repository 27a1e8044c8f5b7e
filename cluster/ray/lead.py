"""One job's part in a run's farm: to lead it, or to wait for its turn while another does."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.exit_codes import ExitCode, MachineFault
from cluster.program import last_words
from cluster.ranks.processes import kill_session, start_session
from cluster.ray.heads import Head, Heads
from cluster.ray.node import answers, ray_part
from cluster.ray.session import token_variables, until_up
from cluster.rendezvous import Node

POLL_S = 1.0
FINDS_WITHIN_S = 120.0  # on NFS a listing may be a minute old
# How a head may end that another one follows.
FARM_GOES_ON = (ExitCode.STOPPED, ExitCode.RETRY_ELSEWHERE)


def take_part(node: Node, heads: Heads, command: Sequence[str]) -> int:
    """Lead the run's farm, which `command` is, when no other job does; how the farm ended."""
    before, head = None, heads.newest()
    if head is None or heads.is_over(head):  # also by a farm that was done before we came
        before, head = head, heads.follow(head)
    said = None
    while head.life != heads.ours:
        if head.life != said:
            print(f"job {head.life.job} leads the farm; this one is ready to", flush=True)
            said = head.life
        if head.code is not None and head.code not in FARM_GOES_ON:
            return head.code
        if heads.is_over(head):
            before, head = head, heads.follow(head)
        else:
            time.sleep(POLL_S)
            head = heads.newest() or head
    return _lead(node, heads, head, before, command)


def _lead(node: Node, heads: Heads, head: Head, before: Head | None, command: Sequence[str]) -> int:
    """Be the head, and run the farm on it; nothing of either is left when the record says so."""
    code: int = ExitCode.STOPPED  # unless it comes to its end: we are told to leave
    try:
        _await_end(before)
        token = heads.new_token(head)
        with ExitStack() as stack:
            ray, address = until_up(lambda: stack.enter_context(ray_part(node, None, token)))
            head = heads.note(head, address=address)
            print(f"the head of Ray is {node.name}, at {address}", flush=True)
            print(f"the farm prints to {heads.farm_log}", flush=True)
            with _farm_at(address, token, command, heads.farm_log) as farm:
                while farm.poll() is None and ray.poll() is None:
                    heads.check(head)
                    time.sleep(POLL_S)
                code = _how_it_ended(farm, ray, address)
            if code not in (ExitCode.DONE, ExitCode.STOPPED):
                print(f"the farm failed: {last_words(heads.farm_log)}", flush=True)
    except MachineFault:
        code = ExitCode.RETRY_ELSEWHERE
        raise
    finally:
        heads.forget_token(head)
        heads.note(head, code=code)
    return code


def _await_end(head: Head | None) -> None:
    """Wait for a head that SLURM had lost to find ours, and end: two farms do not go together."""
    deadline = time.monotonic() + FINDS_WITHIN_S
    while head and head.code is None and head.address and answers(head.address):
        if time.monotonic() > deadline:
            print(f"the head at {head.address} does not end: going on beside it", flush=True)
            break
        time.sleep(POLL_S)


@contextmanager
def _farm_at(
    address: str, token: str, command: Sequence[str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A farm on the Ray at an address, which ends with this context."""
    variables = {"RAY_ADDRESS": address, **token_variables(token)}
    farm = start_session(command, log=log, env={**os.environ, **variables}, cwd=Path.cwd())
    try:
        yield farm
    finally:
        kill_session(farm.pid)
        farm.wait()


def _how_it_ended(farm: subprocess.Popen[bytes], ray: subprocess.Popen[bytes], address: str) -> int:
    """The farm's exit code; MachineFault if Ray has ended under it: it does not know why."""
    if ray.poll() is not None or not answers(address):
        raise MachineFault(f"the head of Ray, at {address}, has ended")
    code = farm.wait()
    if code < 0:
        raise MachineFault(f"the farm was killed by signal {-code}")
    return code
