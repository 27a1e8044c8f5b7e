"""Ending runs: saved at the next step, or at once."""

from cluster.run_folder import RunFolder, read_json
from cluster.slurm.run_job import is_on_slurm
from launcher.ray import jobs as ray_jobs
from launcher.run_state import is_on_ray, run_state
from launcher.slurm import submit as slurm
from launcher.view.status import own_command


def stop(run: RunFolder) -> str:
    """Ask a run to save at its next step and end; what was done, in a line."""
    state = run_state(run)
    on_ray = is_on_ray(read_json(run.state))
    if state == "queued" and on_ray:
        return ray_jobs.stop_waiting_job(run)
    if state in ("queued", "starting"):
        raise ValueError(f"{run.root} is {state}: `{own_command()} cancel {run.root}` ends its job")
    waits = state == "restarting" and on_ray
    if state not in ("running", "stopping") and not waits:
        raise ValueError(f"{run.root} is not running: it is {state}")
    run.request_stop("letterpress stop")
    shows = f"`{own_command()} logs -f {run.root}` shows it do so"
    return f"asked {run.root.name} to save and stop; {shows}"


def cancel(run: RunFolder) -> str:
    """End a run's job at once, or take it out of the queue; what was done, in a line."""
    if is_on_slurm(read_json(run.state)):
        return slurm.cancel_job(run)
    if is_on_ray(read_json(run.state)):
        return ray_jobs.cancel_job(run, ray_jobs.connect())
    raise ValueError(f"{run.root} is on this machine: Ctrl-C twice ends it where it runs")
