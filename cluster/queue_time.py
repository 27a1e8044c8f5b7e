"""When SLURM was asked for a job: the beginning of its time in the queue."""

import contextlib
from datetime import datetime

from cluster.ask import ask

TIMEOUT_S = 10.0


def queued_at(job: str) -> float | None:
    """Seconds since 1970; None if SLURM does not tell. A requeue begins anew."""
    answer = ask(["squeue", "--noheader", f"--jobs={job}", "--format=%V"], timeout_s=TIMEOUT_S)
    with contextlib.suppress(ValueError):  # "N/A"
        # In this machine's time zone, without saying so.
        return datetime.fromisoformat((answer.text or "").strip()).timestamp()
    return None
