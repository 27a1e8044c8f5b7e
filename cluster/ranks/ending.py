"""How a node's ranks ended: why the agent no longer waits for them, and what it records."""

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.exit_codes import ExitCode
from cluster.hangs.silence import Silence
from cluster.run_folder import AttemptFolder, read_json

LOG_TAIL_LINES = 15
# Our own line, or the last one of a traceback, or what the C side says before it aborts.
ERROR_LINE = re.compile(
    r"error: |[\w.]*(Error|Exception|Fault|Superseded)\b|Fatal |terminate called"
)


@dataclass
class Rank:
    """A rank of this node."""

    number: int
    """Among all ranks."""
    process: subprocess.Popen[bytes]
    ended: float | None = None
    """When the agent saw that it had."""

    def poll(self) -> int | None:
        """Its exit code, as Popen has it; None while it lives."""
        code = self.process.poll()
        if code is not None and self.ended is None:
            self.ended = time.time()
        return code


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why the agent no longer waits for its ranks."""

    first_failed: int | None = None
    """The local rank that failed before the others."""
    superseded: bool = False
    """A newer attempt of the run has begun."""
    hang: Silence | None = None
    """Ranks live and do not go on."""
    time: float = field(default_factory=time.time)
    """When it came about: the node with the earliest may have taken the others down."""


def exit_code(codes: Sequence[int], ending: Ending) -> ExitCode:
    """What the node has to say, from its ranks' exit codes and the rank that failed first.

    A rank's own word counts. One that was killed by a signal is the machine's fault until
    something says otherwise; a crash in Python would only repeat itself.
    """
    if ending.superseded:
        return ExitCode.DO_NOT_RESTART
    if ending.hang:
        return ExitCode.RETRY_ELSEWHERE
    if ending.first_failed is None:
        if all(code == ExitCode.STOPPED for code in codes):
            return ExitCode.STOPPED
        return ExitCode.DONE if not any(codes) else ExitCode.RETRY_ELSEWHERE
    code = codes[ending.first_failed]
    if code in list(ExitCode):
        return ExitCode(code)
    return ExitCode.RETRY_ELSEWHERE if code < 0 else ExitCode.DO_NOT_RESTART


def record_of(attempt: AttemptFolder, ranks: Sequence[Rank], ending: Ending) -> dict[str, Any]:
    """How each rank ended, and who failed first, for the node's record."""
    code = exit_code([rank.process.returncode for rank in ranks], ending)
    record: dict[str, Any] = {
        "ended": ending.time,
        "exit_code": int(code),
        "superseded": ending.superseded,
        "ranks": [_rank_record(attempt, rank) for rank in ranks],
        "first_failed_rank": None,
    }
    if ending.first_failed is not None:
        number = ranks[ending.first_failed].number
        record["first_failed_rank"] = number
        record["log_tail"] = _log_lines(attempt, number)[-LOG_TAIL_LINES:]
    return record


def _rank_record(attempt: AttemptFolder, rank: Rank) -> dict[str, Any]:
    code, beat = rank.process.returncode, attempt.heartbeat(rank.number)
    lines = [] if code in (ExitCode.DONE, ExitCode.STOPPED) else _log_lines(attempt, rank.number)
    return {
        "rank": rank.number,
        "exit_code": code if code >= 0 else None,
        "signal": signal.Signals(-code).name if code < 0 else None,
        "first_error": next((line for line in lines if ERROR_LINE.match(line)), None),
        "last_step": read_json(beat).get("step") if beat.exists() else None,
        "ended": rank.ended,
    }


def _log_lines(attempt: AttemptFolder, rank: int) -> list[str]:
    return attempt.rank_log(rank).read_text(errors="replace").splitlines()
