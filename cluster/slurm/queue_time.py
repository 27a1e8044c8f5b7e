"""When SLURM was asked for a job: the beginning of its time in the queue."""

import contextlib
from datetime import datetime

from cluster.slurm.commands import NoAnswer, call, checked_job

TIMEOUT_S = 10.0


def queued_at(job: str) -> float | None:
    """Seconds since 1970; None if SLURM does not tell. A requeue begins anew."""
    asked = ("squeue", "--noheader", f"--jobs={checked_job(job)}", "--format=%V")
    with contextlib.suppress(NoAnswer, ValueError):  # none here, refused, or "N/A"
        # In this machine's time zone, without saying so.
        return datetime.fromisoformat(call(*asked, timeout_s=TIMEOUT_S).strip()).timestamp()
    return None
