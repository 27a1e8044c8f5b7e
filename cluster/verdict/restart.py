"""Whether an attempt is followed by another, and where: a budget for each cause."""

from dataclasses import dataclass
from typing import Any

from cluster.verdict.verdict import Cause, Verdict

# How often a run is started again for a cause. What is not here, never; None: without end.
RESTARTS = {
    Cause.PREEMPTED: None,
    Cause.HARDWARE: 5,
    Cause.NETWORK: 3,
    Cause.HANG: 3,
    Cause.UNKNOWN: 2,
    Cause.OUT_OF_MEMORY: 1,
}
ATTEMPTS_WITHOUT_PROGRESS = 3

WHY_NOT = {
    Cause.DONE: "it is done",
    Cause.STOPPED: "it was asked to stop",
    Cause.USER_ERROR: "it would end the same way again",
}
WHERE = {Cause.PREEMPTED: "when there is room"}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What follows an attempt."""

    cause: Cause
    """What it is decided for: the verdict's, or NO_PROGRESS."""
    restart: bool
    without: str | None = None
    """The node to leave out, which means elsewhere; None: in place."""
    why: str
    """One sentence for people."""


def decide(state: dict[str, Any], verdict: Verdict) -> Decision:
    """What follows the last of `state`'s attempts, which ended as the verdict says.

    Attempts count that led to one another by our own decisions; a person who resumes starts anew.
    """
    cause, chain = verdict.cause, _chain(state["attempts"])
    if cause not in RESTARTS:
        return _no(cause, WHY_NOT[cause])
    idle = _without_progress(state["attempts"], chain)
    if idle >= ATTEMPTS_WITHOUT_PROGRESS:
        step = chain[-1]["step"]
        return _no(
            Cause.NO_PROGRESS, f"{idle} attempts in a row ended without a checkpoint after {step}"
        )
    if cause == Cause.OUT_OF_MEMORY and idle:
        return _no(cause, "it would be again: no checkpoint came before it was")
    if cause == Cause.HARDWARE and chain[-1].get("backend") == "local":
        return _no(cause, "this machine is to blame, and there is no other")
    budget = RESTARTS[cause]
    spent = sum(attempt["verdict"]["cause"] == cause for attempt in chain[:-1])
    if budget is not None and spent >= budget:
        return _no(cause, f"{spent} of {budget} restarts are spent")
    without = verdict.node if cause == Cause.HARDWARE else None
    where = f"without {without}" if without else WHERE.get(cause, "in place")
    count = "" if budget is None else f" ({spent + 1} of {budget})"
    why = f"{_spelt(cause)}: restarted {where}{count}"
    return Decision(cause=cause, restart=True, without=without, why=why)


def _no(cause: Cause, why: str) -> Decision:
    return Decision(cause=cause, restart=False, why=f"{_spelt(cause)}: not restarted, {why}")


def _spelt(cause: Cause) -> str:
    return cause.replace("_", " ")


def _chain(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last attempt, and those before it that we restarted ourselves."""
    first = len(attempts) - 1
    while first and attempts[first - 1].get("decision", {}).get("restart"):
        first -= 1
    return attempts[first:]


def _without_progress(attempts: list[dict[str, Any]], chain: list[dict[str, Any]]) -> int:
    """How many of the newest attempts ended at the step at which the one before them did."""
    before = len(attempts) - len(chain)
    steps = [attempts[before - 1].get("step", 0) if before else 0]
    steps += [attempt["step"] for attempt in chain]
    idle = 0
    while idle < len(chain) and steps[-1 - idle] <= steps[-2 - idle]:
        idle += 1
    return idle
