"""state.json: the launcher's record of a run, its attempts and how it ended."""

import time
from dataclasses import asdict
from typing import Any

from cluster.accounts.attempt_facts import add_accounts
from cluster.accounts.curves import draw_accounts
from cluster.exit_codes import ExitCode
from cluster.fence import Fence
from cluster.run_folder import RunFolder, published_steps, read_json, write_json
from cluster.verdict.judge import judge
from cluster.verdict.restart import Decision, decide
from cluster.verdict.verdict import SchedulerFacts

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
    if facts.get("backend") == "slurm" and "job" in facts:  # also where a script was typed
        state["slurm_job"] = {**state.get("slurm_job", {}), "number": facts["job"]}
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


def end_attempt(
    run: RunFolder, number: int, code: int, facts: SchedulerFacts | None = None
) -> Decision:
    """Record how an attempt ended, at which step, why, and what follows; the caller acts on it.

    Whoever does not start another attempt ends the run, too: `end_run`.
    """
    state = read_json(run.state)
    known = [attempt for attempt in state["attempts"] if attempt["number"] <= number]
    step = max((step for step, _ in published_steps(run.checkpoints)), default=0)
    known[-1] |= {"ended": time.time(), "exit_code": int(code), "step": step}
    verdict = judge(run, number, facts, code=code)
    decision = decide({**state, "attempts": known}, verdict)
    if Fence(run, number).is_down():
        why = f"superseded by attempt {run.last_attempt()}, which goes on"
        decision = Decision(cause=verdict.cause, restart=False, why=why)
    known[-1] |= {"verdict": asdict(verdict), "decision": asdict(decision)}
    add_accounts(run, state)
    write_json(run.state, state)
    draw_accounts(run)
    return decision


def end_run(run: RunFolder, number: int, code: int) -> str:
    """Record that no attempt will follow this one; the outcome: done, stopped or failed.

    Of a run with a newer attempt nothing is recorded: it is that one's to say. `superseded`.
    """
    if Fence(run, number).is_down():
        return "superseded"
    state = read_json(run.state)
    state["outcome"] = (
        OUTCOMES.get(ExitCode(code), "failed") if code in list(ExitCode) else "failed"
    )
    write_json(run.state, state)
    return str(state["outcome"])


def cancel_run(run: RunFolder) -> None:
    """Record that a run which had not ended was ended at once, as somebody wished."""
    state = read_json(run.state)
    if state["outcome"] is None:
        write_json(run.state, {**state, "outcome": "cancelled"})
