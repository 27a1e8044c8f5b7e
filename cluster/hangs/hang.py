"""A hang explained: the stacks of all ranks, and which of them the others wait for."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cluster.hangs.heartbeat import PHASES, read_heartbeats
from cluster.hangs.silence import Silence
from cluster.hangs.stacks import Suspect, waits_for_others, write_stacks
from cluster.ranks.ending import Rank
from cluster.rendezvous import Node
from cluster.run_folder import AttemptFolder, write_json

POLL_S = 0.1
STACKS_WAIT_S = 5.0  # for the other nodes' stacks: the end of our ranks is the end of theirs

log = logging.getLogger(__name__)


def explain_hang(
    attempt: AttemptFolder, node: Node, ranks: Sequence[Rank], silence: Silence
) -> dict[str, Any]:
    """What is known of a hang, for the node's record; the other nodes' agents are told.

    `ranks` are those that the others wait for: none, if each waits for the others.
    """
    if not attempt.hang.exists():
        write_json(attempt.hang, asdict(silence))
    write_stacks(
        {
            attempt.stacks(rank.number): Suspect(rank.process.pid, attempt.rank_log(rank.number))
            for rank in ranks
            if rank.poll() is None
        }
    )
    world = range(node.nodes * node.ranks)
    _await_stacks(attempt, world)
    beats = {beat["rank"]: beat for beat in read_heartbeats(attempt)}
    places = {rank: place(beats.get(rank, {"phase": PHASES[0]})) for rank in world}
    ranks_behind = lagging(places, {rank: waits_for_others(attempt.stacks(rank)) for rank in world})
    step, phase = min(places.values())
    hang = {
        "ranks": ranks_behind,
        "hosts": sorted({beats[rank]["node"] for rank in ranks_behind if rank in beats}),
        "phase": PHASES[phase],
        "step": step,
        "silent_s": silence.silent_s,
        "limit_s": silence.limit_s,
        "stacks": [attempt.stacks(rank).name for rank in world if attempt.stacks(rank).exists()],
    }
    log.warning(
        "hang: %s, %s after step %d; silent for %.0f s, which is more than %.0f s; stacks in %s",
        f"rank {', '.join(map(str, ranks_behind))} lags" if ranks_behind else "no rank lags",
        *(hang["phase"], step, silence.silent_s, silence.limit_s, attempt.root),
    )
    return hang


def lagging(places: Mapping[int, tuple[int, int]], waiting: Mapping[int, bool | None]) -> list[int]:
    """The ranks that the others wait for: the furthest behind, and of those who wait for nobody.

    None, if all are at the same place and wait: then it is what lies between them.
    """
    behind = [rank for rank, there in places.items() if there == min(places.values())]
    for waits in (False, None):
        found = [rank for rank in behind if waiting[rank] is waits]
        if found:
            return found
    return behind if len(behind) < len(places) else []


def place(beat: Mapping[str, Any]) -> tuple[int, int]:
    """How far a rank has come: its step, and its phase there."""
    return beat.get("step", 0), PHASES.index(beat["phase"])


def _await_stacks(attempt: AttemptFolder, world: range) -> None:
    deadline_s = time.monotonic() + STACKS_WAIT_S
    while time.monotonic() < deadline_s:
        if all(attempt.stacks(rank).exists() for rank in world):
            return
        time.sleep(POLL_S)
