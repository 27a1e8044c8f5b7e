"""How a program of this project says what should happen next."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes that agents, batch scripts and launchers act on."""

    DONE = 0
    BAD_INPUT = 2
    """The user can mend it; the message says how."""
    RETRY_ELSEWHERE = 75
    """The machine is to blame."""
    STOPPED = 85
    """Saved and left as asked: resume me."""
    DO_NOT_RESTART = 93
    """Running again would end the same way."""


class MachineFault(RuntimeError):
    """This machine, or what runs on it, cannot do what it should: another may."""


class Superseded(RuntimeError):
    """A newer attempt of the run has begun: nothing of this one counts any more."""
