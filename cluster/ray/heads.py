"""Which of a run's farm jobs has the head of their Ray: the newest, as with attempts.

Heads are numbered and numbers are never reused: who finds a newer one is of the past, and ends. A
job takes the next number if there is none yet, or if the newest is over: by its own word, or
because SLURM no longer has its job. It does so by a hard link, which one process alone can make, on
network storage too; and the record is there whole, or not at all.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.exit_codes import Superseded
from cluster.ray.node import answers
from cluster.run_folder import RunFolder, read_json, write_json
from cluster.slurm.commands import own_job
from cluster.slurm.queue import look_up

# What SLURM said counts against a head that is so much older: the nodes' clocks are not one.
SETTLES_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Life:
    """A job from its start until it ends or is queued again, with the same number."""

    job: str
    restarts: int

    @classmethod
    def ours(cls, environment: Mapping[str, str] = os.environ) -> "Life":
        """That of the job that we are in."""
        job = own_job(environment)
        assert job is not None
        return cls(job=job, restarts=int(environment.get("SLURM_RESTART_COUNT", "0")))


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of a farm's Ray, as its record has it."""

    number: int
    life: Life
    began: float
    """Seconds since 1970."""
    address: str | None = None
    """Where the nodes join it, once it answers."""
    code: int | None = None
    """How it ended: the farm's exit code."""


class Heads:
    """The heads that a run's farm has had."""

    def __init__(self, run: RunFolder, ours: Life) -> None:
        self.farm_log = run.farm_log
        self.folder = run.farm_heads
        self.ours = ours
        self._said: str | None = None

    def newest(self) -> Head | None:
        """The one that counts; None before the first."""
        numbers = [int(path.stem) for path in self.folder.glob("[0-9]*.json")]
        if not numbers:
            return None
        facts = read_json(self._record(max(numbers)))
        return Head(**{**facts, "life": Life(**facts["life"])})

    def follow(self, head: Head | None) -> Head:
        """The head after this one: ours, unless somebody was quicker."""
        number = head.number + 1 if head else 0
        record = self._record(number)
        own = record.with_name(f".{record.name}.{self.ours.job}.tmp")
        write_json(own, asdict(Head(number=number, life=self.ours, began=time.time())))
        # Of an answer that was lost on the way NFS makes an error: the record says whose it is.
        with contextlib.suppress(FileExistsError):
            os.link(own, record)
        own.unlink()
        newest = self.newest()
        assert newest is not None
        return newest

    def note(self, head: Head, **facts: Any) -> Head:
        """Add to the record of a head of ours."""
        head = replace(head, **facts)
        write_json(self._record(head.number), asdict(head))
        return head

    def check(self, head: Head) -> None:
        """Superseded if there is a newer one."""
        newest = self.newest()
        if newest and newest.number > head.number:
            raise Superseded(
                f"job {newest.life.job} has taken over the farm from job {head.life.job}, which "
                "SLURM had lost: this one ends"
            )

    def is_over(self, head: Head) -> bool:
        """Whether a head has ended or is lost; SLURM is asked about one that does not answer."""
        if head.code is not None or (head.life.job == self.ours.job and head.life != self.ours):
            return True
        if head.address and answers(head.address):
            return False
        number, since = head.life.job, head.began + SETTLES_S
        queue = look_up({number: since})
        if queue.failure and queue.failure != self._said:
            print(f"nobody knows whether job {number} goes on: {queue.failure}", flush=True)
        self._said = queue.failure
        job = queue.job_told_after(number, since)
        return job is not None and not job.goes_on

    def new_token(self, head: Head) -> str:
        """What a head of ours and those that join it will know, and nobody else: in a file."""
        token = secrets.token_hex(32)
        path = self._token(head)
        for left in self.folder.glob("*.token"):  # by heads that were lost
            left.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token)
        return token

    def token(self, head: Head) -> str:
        """What to join a head with; it can be read by the farm's owner alone, while that lasts."""
        return self._token(head).read_text()

    def forget_token(self, head: Head) -> None:
        """Remove the file when a head of ours has ended."""
        self._token(head).unlink(missing_ok=True)

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:03d}.json"

    def _token(self, head: Head) -> Path:
        return self.folder / f"{head.number:03d}.token"
