"""One agent per node: looks whether it can, starts a rank per GPU, watches, records how each ended.

    python -m cluster.agent --run RUN --attempt N (--ranks K | --slurm) -- python -m trainer …

The ranks find each other by the five variables that DeepSpeed reads; no ssh, no MPI, no hostfile.
Signals never reach them. SIGTERM and SIGUSR1 to the agent write RUN/STOP, which the ranks obey at
their next step boundary; SIGINT ends them at once.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from cluster.exit_codes import ExitCode
from cluster.fence import Fence
from cluster.hangs.hang import explain_hang
from cluster.hangs.silence import HangWatch, Limits, Silence
from cluster.preflight.check import Check
from cluster.preflight.participant import Participant
from cluster.preflight.preflight import preflight
from cluster.program import run_program
from cluster.ranks.cores import cores_of_ranks
from cluster.ranks.ending import Ending, Rank, record_of
from cluster.ranks.leftovers import mark_of, sweep
from cluster.ranks.oom_kills import oom_kills
from cluster.ranks.processes import end_session, kill_session, start_session
from cluster.rendezvous import (
    Node,
    await_address,
    cores,
    local_node,
    node_of,
    publish_address,
    slurm_node,
)
from cluster.run_folder import AttemptFolder, RunFolder, read_json, write_json

POLL_S = 0.1
LOOK_EVERY_S = 1.0  # at what lies in the run folder: on storage that all nodes share
LIMITS = Limits()
GRACE_S = 5.0  # for ranks that outlive another rank's death: they hang in a collective

log = logging.getLogger(__name__)


@dataclass
class Asked:
    """What a signal asked of the agent."""

    to_kill: bool = False


@dataclass(frozen=True, kw_only=True)
class Lookout:
    """What an agent looks for in the run folder, which all nodes share."""

    fence: Fence
    attempt: AttemptFolder
    hangs: HangWatch

    def look(self, alive: Sequence[Rank]) -> Ending | None:
        """Whether there is a reason to end the ranks that are `alive`."""
        if self.fence.is_down():
            return Ending(superseded=True)
        hang = self.hangs.look([rank.number for rank in alive]) or self.known_hang()
        return Ending(hang=hang) if hang else None

    def known_hang(self) -> Silence | None:
        """The hang that another node's agent has found."""
        return Silence(**read_json(self.attempt.hang)) if self.attempt.hang.exists() else None


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
    parser.add_argument("--hosts", nargs="+", help="with --ranks: all nodes, by their names")
    parser.add_argument("--address", help="of the first of --hosts, if its name is none")
    parser.add_argument("--node", type=int, default=0, help="which of --hosts this one is")
    parser.add_argument("command", nargs="+", help="what each rank runs, after --")
    arguments = parser.parse_args()
    if arguments.slurm:
        node = slurm_node(os.environ)
    elif arguments.hosts:
        node = node_of(arguments.hosts, arguments.node, arguments.ranks, arguments.address)
    else:
        node = local_node(arguments.ranks)
    code = run_node(RunFolder(arguments.run), arguments.attempt, node, arguments.command)
    # Else srun would kill the nodes that still save. The record tells of the stop.
    return ExitCode.DONE if arguments.slurm and code == ExitCode.STOPPED else code


def run_node(
    run: RunFolder,
    attempt_number: int,
    node: Node,
    command: Sequence[str],
    limits: Limits = LIMITS,
) -> ExitCode:
    """Run this node's ranks to their end; the exit code that sums them up."""
    attempt = run.attempt(attempt_number)
    started = time.time()
    kills_before = oom_kills()
    swept = sweep(attempt, node.name)
    if swept:
        log.warning("killed what an earlier attempt had left here: %s", ", ".join(map(str, swept)))
    if node.number == 0:
        meeting = publish_address(attempt, node, str(run.root))
    else:
        meeting = await_address(attempt)
    fence = Fence(run, attempt_number)
    with _signals(fence) as asked:
        failed = preflight(Participant(node=node, attempt=attempt), *meeting)
        if failed:
            return _end_before_start(attempt, node, started, failed)
        ranks = _start(run, attempt, node, command, meeting)
        hangs = HangWatch(run, attempt, node.numbers, limits)
        ending = _watch(ranks, asked, Lookout(fence=fence, attempt=attempt, hangs=hangs))
        hang = explain_hang(attempt, node, ranks, ending.hang) if ending.hang else None
        _end(ranks, ending)
    record = {
        "node": node.number,
        "host": node.name,
        "started": started,
        **record_of(attempt, ranks, ending),
        "longest_silence_s": hangs.longest_s,
        "hang": hang,
        "oom_kills": oom_kills() - kills_before,
    }
    write_json(attempt.node_record(node.name), record)
    if ending.superseded:
        fence.check()  # says so in one line
    return ExitCode(record["exit_code"])


def _start(
    run: RunFolder,
    attempt: AttemptFolder,
    node: Node,
    command: Sequence[str],
    meeting: tuple[str, int],
) -> list[Rank]:
    """Start the node's ranks, which will find the others at an address and port."""
    mark, folder = mark_of(attempt, node.name), run.code if run.code.is_dir() else Path.cwd()
    cores_beside = cores_of_ranks(node.ranks, os.environ)
    ranks = []
    for local_rank, number in enumerate(node.numbers):
        environment = rank_environment(node, local_rank, *meeting) | mark
        path = attempt.rank_log(number)
        process = start_session(command, log=path, env=environment, cwd=folder)
        if cores_beside:  # before it has threads or children, which will have the same
            os.sched_setaffinity(process.pid, cores_beside[local_rank])
        ranks.append(Rank(number, process))
    return ranks


def rank_environment(node: Node, local_rank: int, address: str, port: int) -> dict[str, str]:
    """The environment of one rank: where it stands, and its share of the cores."""
    return {
        "OMP_NUM_THREADS": str(max(1, cores() // node.ranks)),
        **os.environ,
        "RANK": str(node.numbers[local_rank]),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(node.nodes * node.ranks),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }


def _end_before_start(
    attempt: AttemptFolder, node: Node, started: float, failed: Check
) -> ExitCode:
    """Record that preflight let no rank start, and which nodes are to blame."""
    record = {"node": node.number, "host": node.name, "ranks": [], "first_failed_rank": None}
    ending = {"started": started, "ended": time.time(), "exit_code": int(failed.code)}
    write_json(attempt.node_record(node.name), {**ending, **record, "failed_check": asdict(failed)})
    return failed.code


def _watch(ranks: Sequence[Rank], asked: Asked, lookout: Lookout) -> Ending:
    """Wait until all ranks have ended, or should be ended."""
    good = (None, ExitCode.DONE, ExitCode.STOPPED)
    looked_s = time.monotonic()
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [number for number, code in enumerate(codes) if code not in good]
        if failed:
            # A killed rank takes others down within moments, never the reverse.
            first = min(failed, key=lambda number: codes[number] or 0)
            # As its own fault it counts only if nothing else has brought it about.
            return Ending(
                first_failed=first,
                superseded=lookout.fence.is_down(),
                hang=lookout.known_hang(),
            )
        if asked.to_kill or None not in codes:
            return Ending()
        if time.monotonic() - looked_s >= LOOK_EVERY_S:
            looked_s = time.monotonic()
            ending = lookout.look([rank for rank in ranks if rank.process.returncode is None])
            if ending:
                return ending
        time.sleep(POLL_S)


def _end(ranks: Sequence[Rank], ending: Ending) -> None:
    """End the ranks, and whatever they may have started."""
    for rank in ranks:
        if ending.first_failed is not None:
            end_session(rank.process.pid, grace_s=GRACE_S)
        kill_session(rank.process.pid)
    for rank in ranks:
        rank.process.wait()
        rank.poll()


@contextmanager
def _signals(fence: Fence) -> Iterator[Asked]:
    """Turn signals into a request to stop, or to kill; never pass them on to the ranks."""
    asked = Asked()

    def stop(number: int, frame: FrameType | None) -> None:
        if fence.is_down():
            return  # a newer attempt is not stopped for the sake of this one
        good = (ExitCode.DONE, ExitCode.STOPPED)
        records = fence.run.attempt(fence.attempt).node_records()
        if any(record["exit_code"] not in good for record in records):
            asked.to_kill = True  # srun ends this node for the sake of one that has failed
            return
        name = signal.Signals(number).name
        fence.run.request_stop(f"{name} to the agent on {socket.gethostname()}")

    def kill(number: int, frame: FrameType | None) -> None:
        asked.to_kill = True

    wanted = {signal.SIGTERM: stop, signal.SIGUSR1: stop, signal.SIGINT: kill}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)  # Ray blocks SIGINT in all that it starts
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(run_program(main))
