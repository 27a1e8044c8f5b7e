"""Why an attempt ended, in a word, and what says so."""

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What an attempt ended of."""

    DONE = "done"
    STOPPED = "stopped"
    """A person asked for it."""
    PREEMPTED = "preempted"
    """The scheduler took the nodes back: another job's turn, or the time was up."""
    HARDWARE = "hardware"
    """A node, or its view of the storage, is to blame."""
    NETWORK = "network"
    """The way between nodes is to blame."""
    OUT_OF_MEMORY = "out_of_memory"
    """Of the GPU, the node or the job."""
    USER_ERROR = "user_error"
    """Only a person can mend it: the recipe, the code, a full disk."""
    HANG = "hang"
    """Ranks lived and did not go on."""
    NO_PROGRESS = "no_progress"
    """Attempts that bring no new checkpoint: `decide` finds it over several of them."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an attempt ended of, and who or what says so."""

    cause: Cause
    node: str | None = None
    """The one to blame or, where none is, the one that the evidence is from."""
    rank: int | None = None
    evidence: str
    """The line that says so, as it was found, and where."""


@dataclass(frozen=True, kw_only=True)
class SchedulerFacts:
    """What a scheduler knows of the job that an attempt ran in."""

    state: str | None = None
    """As SLURM spells it: NODE_FAIL, TIMEOUT, PREEMPTED, OUT_OF_MEMORY, CANCELLED …"""
    hosts: tuple[str, ...] = ()
    """The nodes of the job, the first node first, as the agents' records name them."""
    down_hosts: tuple[str, ...] = ()
    """Those of them that the scheduler takes for dead."""
    output: tuple[str, ...] = ()
    """The last lines that the job itself printed: the script's, srun's and slurmstepd's."""
