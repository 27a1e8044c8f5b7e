"""What follows an attempt: budgets by cause, and an end to what brings no checkpoint."""

from typing import Any

import pytest

from cluster.verdict.restart import RESTARTS, Decision, decide
from cluster.verdict.verdict import Cause, Verdict


def attempts(*ended: tuple[Cause, int], backend: str = "slurm") -> list[dict[str, Any]]:
    """Attempts that each followed from the one before, with causes and steps they ended at."""
    return [
        {
            "number": number,
            "backend": backend,
            "step": step,
            "verdict": {"cause": cause},
            "decision": {"restart": True},
        }
        for number, (cause, step) in enumerate(ended)
    ]


def after(ended: list[dict[str, Any]], node: str | None = None) -> Decision:
    """The decision on the last of these attempts, for its own cause."""
    verdict = Verdict(cause=Cause(ended[-1]["verdict"]["cause"]), node=node, evidence="a line")
    last = {key: ended[-1][key] for key in ("number", "backend", "step")}
    return decide({"attempts": [*ended[:-1], last]}, verdict)


@pytest.mark.parametrize("cause", [Cause.DONE, Cause.STOPPED, Cause.USER_ERROR])
def test_what_is_done_asked_for_or_wrong_is_not_started_again(cause: Cause) -> None:
    decision = after(attempts((cause, 40)))
    assert not decision.restart
    assert ": not restarted, it " in decision.why


def test_a_bad_node_is_left_out() -> None:
    decision = after(attempts((Cause.HARDWARE, 40)), node="gpu-07")
    assert (decision.restart, decision.without) == (True, "gpu-07")
    assert decision.why == "hardware: restarted without gpu-07 (1 of 5)"


@pytest.mark.parametrize("cause", [Cause.NETWORK, Cause.HANG, Cause.UNKNOWN])
def test_what_is_no_node_s_fault_goes_on_in_place(cause: Cause) -> None:
    decision = after(attempts((cause, 40)), node="gpu-07")
    assert (decision.restart, decision.without) == (True, None)
    assert decision.why.startswith(f"{cause}: restarted in place")


@pytest.mark.parametrize("cause", [cause for cause, budget in RESTARTS.items() if budget])
def test_each_cause_has_its_own_budget(cause: Cause) -> None:
    budget = RESTARTS[cause]
    assert budget
    steps = range(10, 1000, 10)
    within = [(cause, step) for step in steps[:budget]]
    other = (Cause.PREEMPTED, steps[budget])
    assert after(attempts(other, *[(cause, step + 1000) for cause, step in within])).restart
    over = after(attempts(*within, (cause, steps[budget])))
    assert not over.restart
    assert over.why.endswith(f": not restarted, {budget} of {budget} restarts are spent")


def test_preemption_ends_no_run_that_goes_forward() -> None:
    decision = after(attempts(*[(Cause.PREEMPTED, step) for step in range(1, 100)]))
    assert (decision.restart, decision.without) == (True, None)
    assert decision.why == "preempted: restarted when there is room"


def test_three_attempts_without_a_new_checkpoint_end_it_whatever_their_causes() -> None:
    causes = [(Cause.NETWORK, 40), (Cause.HARDWARE, 40), (Cause.PREEMPTED, 40), (Cause.HANG, 40)]
    assert after(attempts(*causes[:3])).restart
    decision = after(attempts(*causes))
    assert (decision.restart, decision.cause) == (False, Cause.NO_PROGRESS)
    why = "no progress: not restarted, 3 attempts in a row ended without a checkpoint after 40"
    assert decision.why == why


def test_attempts_that_never_saved_are_counted_from_step_0() -> None:
    assert after(attempts((Cause.UNKNOWN, 0), (Cause.HANG, 0))).restart
    ended = attempts((Cause.UNKNOWN, 0), (Cause.HANG, 0), (Cause.NETWORK, 0))
    assert after(ended).cause == Cause.NO_PROGRESS


def test_a_person_who_resumes_starts_the_counts_anew() -> None:
    ended = attempts((Cause.HANG, 0), (Cause.HANG, 0), (Cause.HANG, 0), (Cause.HANG, 0))
    assert not after(ended).restart
    ended[2]["decision"]["restart"] = False
    assert after(ended).restart
    del ended[2]["decision"]  # killed with its launcher: nobody decided
    assert after(ended).restart


def test_memory_that_runs_out_before_a_checkpoint_would_again() -> None:
    assert after(attempts((Cause.OUT_OF_MEMORY, 40))).restart
    decision = after(attempts((Cause.OUT_OF_MEMORY, 0)))
    assert not decision.restart
    why = "out of memory: not restarted, it would be again: no checkpoint came before it was"
    assert decision.why == why


def test_one_machine_has_no_other_to_go_to() -> None:
    decision = after(attempts((Cause.HARDWARE, 40), backend="local"), node="here")
    assert not decision.restart
    assert (
        decision.why == "hardware: not restarted, this machine is to blame, and there is no other"
    )
