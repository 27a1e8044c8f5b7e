"""What a run is doing: by its own record first, then by the scheduler that it is on."""

from typing import Any

from cluster.hangs.heartbeat import beats, main_beat
from cluster.ranks.processes import is_alive
from cluster.run_folder import RunFolder, read_json
from cluster.slurm.run_job import ask_slurm, is_on_slurm, slurm_job
from launcher.ray.jobs import has_begun


def run_state(run: RunFolder) -> str:
    """What a run is doing, in a word.

    new, queued, starting, running, stopping, restarting, done, stopped, cancelled, failed; lost:
    killed without a word, or its next job was asked for and SLURM did not answer; unknown: SLURM
    would have to say, and does not.
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
    if is_on_slurm(state):  # and has no job: `resume` looks whether it got one
        return "lost"
    if _is_running(run, state["attempts"][-1]):
        if "ended" in state["attempts"][-1]:
            return "restarting"
        return "stopping" if run.stop_request.exists() else "running"
    return "lost"


def is_on_ray(state: dict[str, Any]) -> bool:
    """Whether a run was last submitted to Ray."""
    return "ray_job" in state


def _state_on_slurm(run: RunFolder, state: dict[str, Any]) -> str:
    attempts = [attempt for attempt in state["attempts"] if attempt.get("job") == slurm_job(state)]
    is_open = bool(attempts) and "ended" not in attempts[-1]
    going = "stopping" if run.stop_request.exists() else "running"
    if is_open and beats(run):
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
    return main_beat(run) is None or beats(run)  # on another machine: by its heartbeat
