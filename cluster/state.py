"""state.json: the launcher's record of a run, its attempts and how it ended."""

import time
from typing import Any

from cluster.exit_codes import ExitCode
from cluster.fence import Fence
from cluster.run_folder import RunFolder, read_json, write_json

OUTCOMES = {ExitCode.DONE: "done", ExitCode.STOPPED: "stopped"}


def new_state(facts: dict[str, Any]) -> dict[str, Any]:
    """The record of a run that has not started."""
    return {"created": time.time(), **facts, "attempts": [], "outcome": None}


def begin_attempt(run: RunFolder, **facts: Any) -> int:
    """Open the next attempt: its folder, its record; a stop that was asked for is forgotten."""
    number = run.begin_attempt()
    run.clear_stop_request()
    state = read_json(run.state)
    state["attempts"].append({"number": number, "started": time.time(), **facts})
    state["outcome"] = None
    write_json(run.state, state)
    return number


def summed_up(run: RunFolder, number: int) -> int:
    """The exit code of an attempt from its nodes' records: the earliest bad one counts.

    What SLURM reports cannot be used: it ends the other nodes for the first one's sake, and shows
    the highest code of all.
    """
    records = sorted(run.attempt(number).node_records(), key=lambda record: record["ended"])
    codes = [record["exit_code"] for record in records]
    bad = [code for code in codes if code not in (ExitCode.DONE, ExitCode.STOPPED)]
    return int(bad[0] if bad else max(codes, default=ExitCode.RETRY_ELSEWHERE))


def end_attempt(run: RunFolder, number: int, code: int) -> str:
    """Record how an attempt ended: done, stopped, failed, or superseded.

    The run's outcome is the newest attempt's to say.
    """
    state = read_json(run.state)
    for attempt in state["attempts"]:
        if attempt["number"] == number:
            attempt |= {"ended": time.time(), "exit_code": int(code)}
    outcome = OUTCOMES.get(ExitCode(code), "failed") if code in list(ExitCode) else "failed"
    if Fence(run, number).is_down():
        outcome = "superseded"
    else:
        state["outcome"] = outcome
    write_json(run.state, state)
    return outcome
