"""The backend that runs on Ray: a job, submitted once, whose driver is `launcher.ray.driver`."""

import logging
import os
import secrets
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cluster.exit_codes import MachineFault
from cluster.run_folder import RunFolder, read_json, write_json
from cluster.state import cancel_run
from launcher.freeze import freeze
from launcher.recipe import Recipe

# Ray keeps the folder as one message in its control store, which takes no more (ray 2.60,
# GCS_STORAGE_MAX_SIZE); it finds that out only after it has packed it all.
MAX_FOLDER_BYTES = 512 << 20
# Where models lie, if not at their usual place. Of the environment nothing else goes along.
PASSED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
ENDS_S = 30.0  # for a driver to leave Ray
# From SIGTERM to SIGKILL, for a job that is to end: agents end their ranks in a second or two, and
# the driver records it. Ray's own 3 s (ray 2.60, job_supervisor.py) may be too short for that.
STOP_WAIT_S = 20
LOOK_EVERY_S = 0.2


def submit_run(recipe: Recipe, root: Path) -> str:
    """Freeze a recipe and submit it; the job's id. Nothing is left if Ray refuses it."""
    client = connect()
    run = freeze(recipe, root)
    try:
        return submit(run, client)
    except ValueError:
        shutil.rmtree(run.root)
        raise


def submit(run: RunFolder, client: Any) -> str:
    """Submit a job for a frozen run, unless it has one that has not ended; its id.

    The id is ours and is written down first: if Ray's answer is lost, the next try finds the job.
    """
    check_folder(run.code)
    state = read_json(run.state)
    job = state.get("ray_job")
    status = _status(client, job["id"]) if job else None
    if job and status and not status.startswith(ENDED):
        if state["outcome"] is None:
            return str(job["id"])
        if not _has_ended(client, job["id"]):  # its driver has the last word in state.json
            raise ValueError(
                f"Ray job {job['id']} still scores what was published: try again when it is done, "
                f"or end it by `letterpress cancel {run.root}`"
            )
    is_used = job is None or status or has_begun(state)
    job = expect_job(run, None if is_used else job)
    _submit(run, client, job["id"])
    return str(job["id"])


def expect_job(run: RunFolder, job: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write down what a run's job will be known by, a new one if None, before Ray is asked."""
    job = job or {"id": f"{run.root.name}-{secrets.token_hex(4)}"}
    write_json(run.state, {**read_json(run.state), "ray_job": job, "outcome": None})
    return job


def has_begun(state: dict[str, Any]) -> bool:
    """Whether a run's newest job has opened an attempt."""
    return any(attempt.get("job") == state["ray_job"]["id"] for attempt in state["attempts"])


def connect() -> Any:
    """Ray's client for jobs; MachineFault if there is no Ray to be had."""
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if not address.startswith(("http://", "https://")):
        raise ValueError(
            f"RAY_ADDRESS is {address!r}: set it to where Ray takes jobs, such as http://HEAD:8265"
        )
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise MachineFault(f"no Ray at {address}: {_one_line(error)}") from None


def check_folder(folder: Path) -> None:
    """ValueError if a folder is more than Ray takes along."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_FOLDER_BYTES:
        raise ValueError(
            f"{folder} holds {size >> 20} MiB, Ray takes {MAX_FOLDER_BYTES >> 20}: remove from the "
            "packages what is no code"
        )


def job_line(state: dict[str, Any]) -> str:
    """What Ray says of a run's job."""
    job = state["ray_job"]["id"]
    try:
        return f"{job}: {_status(connect(), job) or 'unknown to Ray'}"
    except (MachineFault, ValueError) as error:
        return f"{job}: {error}"


def stop_waiting_job(run: RunFolder) -> str:
    """End a job that has not begun yet; what was done, in a line."""
    job = read_json(run.state)["ray_job"]["id"]
    _end(connect(), job)
    write_json(run.state, {**read_json(run.state), "outcome": "stopped"})
    return f"stopped job {job} before it began"


def cancel_job(run: RunFolder, client: Any) -> str:
    """End a run's job at once; what was done, in a line. Of a run that has ended, its farm."""
    state = read_json(run.state)
    job, outcome = state["ray_job"]["id"], state["outcome"]
    if outcome and (_status(client, job) or ENDED[0]).startswith(ENDED):
        raise ValueError(f"{run.root} is {outcome}: there is no job to cancel")
    _end(client, job)
    cancel_run(run)
    return f"cancelled job {job}; what was published last can be resumed from"


def _end(client: Any, job: str) -> None:
    """End a job, and wait until it has: its driver writes to the run folder until then."""
    if _status(client, job) is None:  # of a Ray that was started anew
        return
    try:
        client.stop_job(job)
    except (ConnectionError, RuntimeError) as error:
        raise MachineFault(f"Ray does not end job {job}: {_one_line(error)}") from None
    if not _has_ended(client, job):
        raise MachineFault(f"Ray job {job} did not end in {ENDS_S:.0f} s, though it was asked to")


def _submit(run: RunFolder, client: Any, job: str) -> None:
    command = [sys.executable, "-m", "launcher.ray.driver", str(run.root)]
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_WAIT_S)
    try:
        client.submit_job(
            entrypoint=shlex.join(command),  # Ray hands it to a shell
            submission_id=job,
            runtime_env={"working_dir": str(run.code), "env_vars": environment},
            metadata={"run": str(run.root)},
        )
    except (ConnectionError, RuntimeError) as error:
        raise MachineFault(
            f"Ray did not take the job: {_one_line(error)}; `letterpress resume {run.root}` looks "
            "whether it did, and submits it if not"
        ) from None


def _has_ended(client: Any, job: str) -> bool:
    """Whether a job ends within the time that its driver may take."""
    deadline = time.monotonic() + ENDS_S
    while not (_status(client, job) or ENDED[0]).startswith(ENDED):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def _status(client: Any, job: str) -> str | None:
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED with the reason; None if Ray knows it not."""
    try:
        info = client.get_job_info(job)
    except RuntimeError as error:
        if "404" in str(error):
            return None
        raise MachineFault(f"Ray does not answer: {_one_line(error)}") from None
    failed = info.status.value == "FAILED" and info.message
    return f"FAILED: {_reason(info.message)}" if failed else str(info.status.value)


def _reason(message: str) -> str:
    """Why a job has failed, of Ray's words and the end of its log: our own error line, if any."""
    errors = [line for line in message.splitlines() if line.startswith("error: ")]
    return _one_line(errors[-1] if errors else message.partition(", last available logs")[0])


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
