"""One agent per node: looks whether it can, starts a rank per GPU, watches, records how each ended.

    python -m cluster.agent --run RUN --attempt N (--ranks K | --slurm) -- python -m trainer …

The ranks find each other by the five variables that DeepSpeed reads; no ssh, no MPI, no hostfile.
Signals never reach them. SIGTERM and SIGUSR1 to the agent write RUN/STOP, which the ranks obey at
their next step boundary; SIGINT ends them at once.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.exit_codes import ExitCode
from cluster.preflight.check import Check
from cluster.preflight.participant import Participant
from cluster.preflight.preflight import preflight
from cluster.processes import end_session, kill_session, start_session
from cluster.program import run_program
from cluster.rendezvous import (
    Node,
    await_address,
    cores,
    local_node,
    node_of,
    publish_address,
    slurm_node,
)
from cluster.run_folder import AttemptFolder, RunFolder, write_json

POLL_S = 0.1
GRACE_S = 5.0  # for ranks that outlive another rank's death: they hang in a collective
LOG_TAIL_LINES = 15


@dataclass
class Asked:
    """What a signal asked of the agent."""

    to_kill: bool = False


def main() -> int:
    """Parse the command line and look after one node."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.agent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--attempt", type=int, required=True, help="number of the attempt")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--ranks", type=int, help="so many ranks, on this machine alone")
    where.add_argument("--slurm", action="store_true", help="a node of a SLURM job")
    parser.add_argument("--hosts", nargs="+", help="with --ranks: all nodes, by their addresses")
    parser.add_argument("--node", type=int, default=0, help="which of --hosts this one is")
    parser.add_argument("command", nargs="+", help="what each rank runs, after --")
    arguments = parser.parse_args()
    if arguments.slurm:
        node = slurm_node(os.environ)
    elif arguments.hosts:
        node = node_of(arguments.hosts, arguments.node, arguments.ranks)
    else:
        node = local_node(arguments.ranks)
    code = run_node(RunFolder(arguments.run), arguments.attempt, node, arguments.command)
    # Else srun would kill the nodes that still save. The record tells of the stop.
    return ExitCode.DONE if arguments.slurm and code == ExitCode.STOPPED else code


def run_node(run: RunFolder, attempt_number: int, node: Node, command: Sequence[str]) -> ExitCode:
    """Run this node's ranks to their end; the exit code that sums them up."""
    attempt = run.attempt(attempt_number)
    started = time.time()
    if node.number == 0:
        address, port = publish_address(attempt, node, str(run.root))
    else:
        address, port = await_address(attempt)
    with _signals(run) as asked:
        failed = preflight(Participant(node=node, attempt=attempt), address, port)
        if failed:
            return _end_before_start(attempt, node, started, failed)
        ranks = [
            start_session(
                command,
                log=attempt.rank_log(node.number * node.ranks + local_rank),
                env=rank_environment(node, local_rank, address, port),
                cwd=run.code if run.code.is_dir() else Path.cwd(),
            )
            for local_rank in range(node.ranks)
        ]
        first_failed = _watch(ranks, asked)
        for rank in ranks:
            kill_session(rank.pid)  # what a rank may have started, too
            rank.wait()
    code = exit_code([rank.returncode for rank in ranks], first_failed)
    record = _record(attempt, node, ranks, first_failed)
    write_json(
        attempt.node_record(node.name),
        {"started": started, "ended": time.time(), "exit_code": int(code), **record},
    )
    return code


def rank_environment(node: Node, local_rank: int, address: str, port: int) -> dict[str, str]:
    """The environment of one rank: where it stands, and its share of the cores."""
    return {
        "OMP_NUM_THREADS": str(max(1, cores() // node.ranks)),
        **os.environ,
        "RANK": str(node.number * node.ranks + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(node.nodes * node.ranks),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }


def exit_code(codes: Sequence[int], first_failed: int | None) -> ExitCode:
    """What the node has to say, from its ranks' exit codes and the rank that failed first.

    A rank's own word counts. One that was killed by a signal is the machine's fault until
    something says otherwise; a crash in Python would only repeat itself.
    """
    if first_failed is None:
        if all(code == ExitCode.STOPPED for code in codes):
            return ExitCode.STOPPED
        return ExitCode.DONE if not any(codes) else ExitCode.RETRY_ELSEWHERE
    code = codes[first_failed]
    if code in list(ExitCode):
        return ExitCode(code)
    return ExitCode.RETRY_ELSEWHERE if code < 0 else ExitCode.DO_NOT_RESTART


def _end_before_start(
    attempt: AttemptFolder, node: Node, started: float, failed: Check
) -> ExitCode:
    """Record that preflight let no rank start, and which nodes are to blame."""
    record = {"node": node.number, "host": node.name, "ranks": [], "first_failed_rank": None}
    ending = {"started": started, "ended": time.time(), "exit_code": int(failed.code)}
    write_json(attempt.node_record(node.name), {**ending, **record, "failed_check": asdict(failed)})
    return failed.code


def _watch(ranks: Sequence[subprocess.Popen[bytes]], asked: Asked) -> int | None:
    """Wait until all ranks have ended well, or one has failed and the rest are ended. Which one."""
    good = (None, ExitCode.DONE, ExitCode.STOPPED)
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [number for number, code in enumerate(codes) if code not in good]
        if failed:
            for rank in ranks:
                end_session(rank.pid, grace_s=GRACE_S)
            # A killed rank takes others down within moments, never the reverse.
            return min(failed, key=lambda number: codes[number] or 0)
        if asked.to_kill or None not in codes:
            return None
        time.sleep(POLL_S)


def _record(
    attempt: AttemptFolder,
    node: Node,
    ranks: Sequence[subprocess.Popen[bytes]],
    first_failed: int | None,
) -> dict[str, Any]:
    first_rank = node.number * node.ranks
    record: dict[str, Any] = {
        "node": node.number,
        "host": node.name,
        "ranks": [
            {
                "rank": first_rank + number,
                "exit_code": rank.returncode if rank.returncode >= 0 else None,
                "signal": signal.Signals(-rank.returncode).name if rank.returncode < 0 else None,
            }
            for number, rank in enumerate(ranks)
        ],
        "first_failed_rank": None,
    }
    if first_failed is not None:
        record["first_failed_rank"] = first_rank + first_failed
        log = attempt.rank_log(first_rank + first_failed)
        record["log_tail"] = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return record


@contextmanager
def _signals(run: RunFolder) -> Iterator[Asked]:
    """Turn signals into a request to stop, or to kill; never pass them on to the ranks."""
    asked = Asked()

    def stop(number: int, frame: FrameType | None) -> None:
        run.request_stop(f"{signal.Signals(number).name} to the agent on {socket.gethostname()}")

    def kill(number: int, frame: FrameType | None) -> None:
        asked.to_kill = True

    wanted = {signal.SIGTERM: stop, signal.SIGUSR1: stop, signal.SIGINT: kill}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(run_program(main))
