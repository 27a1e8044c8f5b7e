"""What SLURM knows of our jobs, asked once for all of them and not oftener than twice a minute.

The answer lies in a file of the user's, which every program here reads: however many runs are
watched, the scheduler hears of it once. What a job does itself stands in its run folder.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.run_folder import read_json, write_json
from cluster.slurm.commands import NoAnswer, NoSlurm, Refused, call, checked_job, own_jobs

ASK_EVERY_S = 30.0
SQUEUE_FORMAT = "%i|%T|%r|%N"  # %i: 17, or 17_3 of an array
NO_NODES = "None assigned"  # as sacct says it
# The words of 21.08 to 26.05. One that is in neither line is a job's that goes on: nothing is given
# up because a newer SLURM has another word.
WAITING = {
    *("PENDING", "CONFIGURING", "POWER_UP_NODE", "EXPEDITING", "RESV_DEL_HOLD"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
}
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT", "GONE"),
}


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job as SLURM last told of it."""

    state: str
    """In SLURM's words, such as PENDING or TIMEOUT; GONE once it knows no more of the job."""
    reason: str = ""
    """Why it waits, such as Priority or BeginTime."""
    nodes: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.state in WAITING

    @property
    def goes_on(self) -> bool:
        """Whether it has nodes."""
        return not (self.waits or self.has_ended)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it; sacct may cut the word short."""
        return any(word.startswith(self.state) for word in ENDED)

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        where = f" on {self.nodes}" if self.nodes else ""
        return f"{self.state}{why}{where}"


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What SLURM said, and when."""

    jobs: dict[str, QueuedJob]
    asked: float
    """Seconds since 1970; 0: never."""
    failure: str | None
    """Why it could not be asked since."""

    def job(self, number: str, since: float) -> QueuedJob | None:
        """The state of a job that is there since then; None if that is newer than the answer."""
        if number not in self.jobs and since >= self.asked:
            return None
        return self.jobs.get(number, QueuedJob(state="GONE"))

    def job_told_after(self, number: str, since: float) -> QueuedJob | None:
        """The state of a job, by an answer that is newer than `since`; None if there is none yet.

        An older one may be of the job as it was before it was queued again.
        """
        return self.job(number, since) if self.asked > since else None


def look_up(wanted: Mapping[str, float]) -> Queue:
    """Jobs, by number and since when they are there, as SLURM told of them in the last 30 s.

    Of a job that its controller has forgotten the accounting is asked, where there is one: that
    takes the turn of asking the controller.
    """
    try:
        with _locked(_cache_file()) as cache:
            known = _asked_lately(cache, wanted)
    except OSError as error:  # some sites let nobody write there on the nodes
        known = _nothing_asked() | {"failure": f"cannot write {error.filename}: {error.strerror}"}
    jobs = {number: QueuedJob(**job) for number, job in known["jobs"].items()}
    return Queue(jobs=jobs, asked=known["asked"], failure=known["failure"])


def ask_now() -> dict[str, QueuedJob]:
    """This user's jobs by number, as the controller tells of them at this moment."""
    return parse_squeue(own_jobs(SQUEUE_FORMAT))


def parse_squeue(text: str) -> dict[str, QueuedJob]:
    """Jobs by number, of lines of `squeue --array --format=%i|%T|%r|%N`."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 3]
    return {
        number: QueuedJob(state=state, reason=reason, nodes=nodes)
        for number, state, reason, nodes in rows
    }


def parse_sacct(text: str) -> dict[str, QueuedJob]:
    """Jobs by number, of lines of `sacct --parsable2 --format=JobID,State,NodeList`.

    A job that was queued again has a line for each time; the last counts. Tasks that never started
    share one. The state may have an author (`CANCELLED by 1000`) or be cut short (`CANCELLED+`).
    """
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {
        number: QueuedJob(state=re.split("[ +]", state)[0], nodes=nodes.replace(NO_NODES, ""))
        for numbers, state, nodes in rows
        for number in _tasks(numbers)
    }


def _tasks(numbers: str) -> list[str]:
    """The jobs of a line: 17 or 17_3 itself; 17_1, 17_5 and 17_6 of 17_[1,5-6%8].

    Where SLURM cuts a long list short, to 17_[1,5-6,9...], it tells no more.
    """
    array, _, listed = numbers.removesuffix("]").partition("_[")
    ranges = re.findall(r"(\d+)(?:-(\d+))?(?:,|$)", listed.partition("%")[0])
    return [
        f"{array}_{task}"
        for first, last in ranges
        for task in range(int(first), int(last or first) + 1)
    ] or [numbers]


def _asked_lately(cache: Path, wanted: Mapping[str, float]) -> dict[str, Any]:
    """The answer in the file, which is a new one if that is old."""
    known: dict[str, Any] = read_json(cache) if cache.exists() else _nothing_asked()
    if not 0 <= time.time() - known["tried"] < ASK_EVERY_S:
        known["tried"] = time.time()
        try:
            _ask(known, wanted)
            known["failure"] = None
        except (NoAnswer, NoSlurm, Refused) as error:
            known["failure"] = str(error)
        write_json(cache, known)
    return known


def _nothing_asked() -> dict[str, Any]:
    return {"tried": 0.0, "asked": 0.0, "failure": None, "jobs": {}, "accounted": []}


def _ask(known: dict[str, Any], wanted: Mapping[str, float]) -> None:
    """One question: to the controller, or to the accounting about what the controller forgot.

    After a failure it is the controller's turn, which is not to wait until there is a slurmdbd.
    """
    jobs = known["jobs"]
    forgotten = [
        checked_job(number)
        for number, since in wanted.items()
        if number not in jobs and number not in known["accounted"] and since < known["asked"]
    ]
    if forgotten and not known["failure"]:
        with contextlib.suppress(Refused):  # where there is no accounting, they stay forgotten
            jobs |= {number: asdict(job) for number, job in _accounted(forgotten).items()}
        known["accounted"] += forgotten
        return
    told = ask_now()
    ended = {number: job for number, job in jobs.items() if QueuedJob(**job).has_ended}
    kept = {number: job for number, job in ended.items() if number in known["accounted"]}
    known["jobs"] = kept | {number: asdict(job) for number, job in told.items()}
    known["asked"] = time.time()


def _accounted(numbers: Sequence[str]) -> dict[str, QueuedJob]:
    asked = ("--parsable2", "--noheader", "--allocations", "--duplicates")
    form = "--format=JobID,State,NodeList"  # JobIDRaw is another number for tasks of an array
    # Asked for 17_3, sacct tells nothing where its line is that of 17_[0-7] (22.05).
    jobs = dict.fromkeys(number.partition("_")[0] for number in numbers)
    told = parse_sacct(call("sacct", *asked, form, f"--jobs={','.join(jobs)}"))
    return {number: job for number, job in told.items() if number in numbers}


def _cache_file() -> Path:
    """Where the answer lies: a file for each cluster."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "letterpress"
    cluster = hashlib.blake2b(os.environ.get("SLURM_CONF", "").encode(), digest_size=4).hexdigest()
    return folder / f"slurm-{cluster}.json"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """The file, while nobody else asks: who comes meanwhile waits and reads the answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
