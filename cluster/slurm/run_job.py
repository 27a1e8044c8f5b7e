"""The SLURM job that a run is on: which it is, what SLURM knows of it, and whether it is lost."""

from typing import Any

from cluster.hangs.heartbeat import beats
from cluster.run_folder import RunFolder, read_json
from cluster.slurm.queue import Queue, QueuedJob, look_up


def is_on_slurm(state: dict[str, Any]) -> bool:
    """Whether a run was last submitted to SLURM, or begun there."""
    attempts = state["attempts"]
    return "slurm_job" in state and not (attempts and attempts[-1].get("backend") != "slurm")


def slurm_job(state: dict[str, Any]) -> str | None:
    """The number of the job that a run is on; None if it is not on SLURM, or never got one."""
    number = state["slurm_job"]["number"] if is_on_slurm(state) else None
    return None if number is None else str(number)


def ask_slurm(state: dict[str, Any]) -> tuple[QueuedJob | None, Queue]:
    """What SLURM knows of a run's job, and all of its answer. None: nothing yet."""
    number = slurm_job(state)
    assert number is not None
    since = state["slurm_job"].get("submitted") or state["attempts"][-1]["started"]
    queue = look_up({number: since})
    return queue.job(number, since), queue


def how_it_was_lost(run: RunFolder) -> str | None:
    """In a line, how SLURM ended the job of a run that has recorded no end; None: it has not.

    So ends a run that somebody cancels by `scancel`. As long as its ranks are heard of, SLURM is
    not asked.
    """
    state = read_json(run.state) if run.state.exists() else {"outcome": None, "attempts": []}
    if state["outcome"] or slurm_job(state) is None or beats(run):
        return None
    job, _ = ask_slurm(state)
    if job is None or not job.has_ended:
        return None
    return f"job {slurm_job(state)}, which trained {run.root}, is {job.state}"
