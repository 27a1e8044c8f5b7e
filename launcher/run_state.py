"""What a run is doing: by its own record first, then by the scheduler that it is on."""

import time
from typing import Any

from cluster.ranks.processes import is_alive
from cluster.run_folder import RunFolder, read_json
from cluster.slurm.queue import Queue, QueuedJob, look_up
from launcher.ray.jobs import has_begun

SILENT_S = 60.0


def run_state(run: RunFolder) -> str:
    """What a run is doing, in a word.

    new, queued, starting, running, stopping, restarting, done, stopped, cancelled, failed; lost:
    killed without a word; unknown: SLURM would have to say, and does not.
    """
    state = read_json(run.state)
    if state["outcome"]:
        return str(state["outcome"])
    if slurm_job(state):
        return _state_on_slurm(run, state)
    if is_on_ray(state) and not has_begun(state):
        return "queued"
    if not state["attempts"]:
        return "new"
    if _is_running(run, state["attempts"][-1]):
        if "ended" in state["attempts"][-1]:
            return "restarting"
        return "stopping" if run.stop_request.exists() else "running"
    return "lost"


def is_on_ray(state: dict[str, Any]) -> bool:
    """Whether a run was last submitted to Ray."""
    return "ray_job" in state


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


def main_beat(run: RunFolder) -> dict[str, Any] | None:
    """What the first rank of the newest attempt is doing, if it has said so."""
    number = run.last_attempt()
    if number is None:
        return None
    path = run.attempt(number).heartbeat(0)
    return dict(read_json(path)) if path.exists() else None


def _state_on_slurm(run: RunFolder, state: dict[str, Any]) -> str:
    attempts = [attempt for attempt in state["attempts"] if attempt.get("job") == slurm_job(state)]
    is_open = bool(attempts) and "ended" not in attempts[-1]
    going = "stopping" if run.stop_request.exists() else "running"
    if is_open and _beats(run):
        return going
    job, queue = ask_slurm(state)
    if job is None:
        if queue.failure:
            return "unknown"
        return going if is_open else "queued"
    if job.waits:
        return "queued"
    if job.has_ended:
        return "lost"
    if is_open:
        return going
    return "restarting" if attempts else "starting"


def _is_running(run: RunFolder, attempt: dict[str, Any]) -> bool:
    if attempt.get("backend") == "local":
        return is_alive(attempt["pid"])
    if "ended" in attempt:
        return True
    return main_beat(run) is None or _beats(run)  # on another machine: by its heartbeat


def _beats(run: RunFolder) -> bool:
    beat = main_beat(run)
    return beat is not None and time.time() - beat["time"] < SILENT_S
