"""What the doctor finds: a thing, how it stands, and what would mend it."""

from dataclasses import dataclass
from typing import Literal

from cluster.ask import Answer

State = Literal["ok", "lacks", "no answer", "not needed"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A row of the table."""

    what: str
    state: State
    found: str
    mend: str | None = None
    """A command, or what to do where no command can."""


def ok(what: str, found: str, mend: str | None = None) -> Finding:
    """It is as it should be; `mend` is for what could be better."""
    return Finding(what=what, state="ok", found=found, mend=mend)


def lacks(what: str, found: str, mend: str) -> Finding:
    """The recipe needs it, and it is not so."""
    return Finding(what=what, state="lacks", found=found, mend=mend)


def not_needed(what: str, found: str) -> Finding:
    """It is not here, and this recipe does without it."""
    return Finding(what=what, state="not needed", found=found)


def unanswered(what: str, answer: Answer, mend: str) -> Finding:
    """Nothing was said of it: it lacks, or it took too long and may be as it should."""
    assert answer.text is None
    if answer.timed_out:
        again = "ask again when this machine and its storage are less busy"
        return Finding(what=what, state="no answer", found=answer.silence, mend=again)
    return lacks(what, answer.silence, mend)
