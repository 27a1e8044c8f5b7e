"""Where the GPU-hours of a run went: useful steps, and what was lost to which cause.

A pure function of what the attempts left; cluster/accounts/attempt_facts.py reads that.

Of an attempt every second from its start to its ranks' end is counted once, times its ranks:

    useful      steps that count, at the attempt's usual speed
    slow        what steps took beyond it that took over 1.5 times the median
    rework      steps that a later attempt had to repeat, as it went on from before them; and what
                came after the last known step of an attempt that failed
    start       until the first step: samples, ranks, weights
    save        the steps stood still for checkpoints, exports and previews, and for the last ones
    validation  … or for a validation
    hang        after the last known step, where ranks hung
    other       the rest
    queue       before the start, from when the job was asked for, as far as that is known

Used is all of these but the queue; requested includes it. Goodput is useful / used: of the time
since the start, the queue left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Any

CAUSES = ("queue", "start", "save", "validation", "rework", "slow", "hang", "other")
SLOW = 1.5  # times the median of the attempt; buckets of several sizes stay below it


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps in a row whose losses were read at once."""

    first: int
    last: int
    ended: float
    """When they were read, in seconds since 1970."""
    step_s: float

    @property
    def began(self) -> float:
        """When the first of them began."""
        return self.ended - (self.last - self.first + 1) * self.step_s


@dataclass(frozen=True, kw_only=True)
class AttemptFacts:
    """What an attempt left; times are seconds since 1970."""

    number: int
    ranks: int
    """One for each GPU."""
    started: float
    ended: float
    """The end of its ranks or, where that is not known, their last sign of life."""
    queued: float | None = None
    """When its job was asked for; None: not known, or there was no queue."""
    failed: bool = False
    """Ended otherwise than done or as asked. One that still runs has not."""
    running: bool = False
    """Its end is not recorded."""
    hung: bool = False
    resumed_from: int | None = None
    """The step that it went on after; None: it did not come so far."""
    steps: Sequence[Steps] = ()
    saved: frozenset[int] = frozenset()
    """The steps after which a checkpoint was published."""
    validated: Mapping[int, float] = field(default_factory=dict)
    """By step, when the validation after it was done."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """GPU-seconds of an attempt, or of several."""

    useful_s: float
    lost_s: Mapping[str, float]
    """By cause; one that cost nothing is 0. `queue` is not there if it is not known."""

    @property
    def used_s(self) -> float:
        """While its ranks held their GPUs."""
        return self.useful_s + sum(s for cause, s in self.lost_s.items() if cause != "queue")

    @property
    def requested_s(self) -> float:
        """From when they were asked for."""
        return self.used_s + self.lost_s.get("queue", 0.0)

    @property
    def goodput(self) -> float | None:
        """Useful / used; None where nothing was used."""
        return self.useful_s / self.used_s if self.used_s else None

    def hours(self) -> dict[str, Any]:
        """As state.json holds it: GPU-hours, and the goodput."""
        return {
            "requested": self.requested_s / 3600,
            "used": self.used_s / 3600,
            "useful": self.useful_s / 3600,
            "lost": {cause: seconds / 3600 for cause, seconds in self.lost_s.items()},
            "goodput": self.goodput,
        }


def accounts(attempts: Sequence[AttemptFacts], newest_checkpoint: int) -> list[Account]:
    """The account of each attempt, in order; `newest_checkpoint` is the step of the run's last."""
    return [
        _account(
            attempt,
            _kept(attempt, attempts[number + 1 :], newest_checkpoint),
            attempts[number - 1].ended if number else 0.0,
        )
        for number, attempt in enumerate(attempts)
    ]


def total(parts: Sequence[Account]) -> Account:
    """The sum of several accounts."""
    causes = [c for c in CAUSES if any(c in part.lost_s for part in parts)]
    return Account(
        useful_s=sum(part.useful_s for part in parts),
        lost_s={cause: sum(part.lost_s.get(cause, 0.0) for part in parts) for cause in causes},
    )


def _kept(attempt: AttemptFacts, later: Sequence[AttemptFacts], newest_checkpoint: int) -> float:
    """The last of the attempt's steps that nobody had, or will have, to repeat."""
    resumed = [one.resumed_from for one in later if one.resumed_from is not None]
    return min(resumed, default=newest_checkpoint if attempt.failed else inf)


def _account(attempt: AttemptFacts, kept: float, ended_before: float) -> Account:
    useful_s, lost_s = _step_times(attempt.steps, kept)
    for cause, seconds in (*_pauses(attempt), *_ends(attempt)):
        lost_s[cause] += max(0.0, seconds)
    known_s = useful_s + sum(lost_s.values())
    lost_s["other"] += max(0.0, attempt.ended - attempt.started - known_s)
    if attempt.queued is not None:
        # A job that is queued again may keep the time at which it was first asked for.
        lost_s["queue"] = max(0.0, attempt.started - max(attempt.queued, ended_before))
    return Account(
        useful_s=attempt.ranks * useful_s,
        lost_s={c: attempt.ranks * lost_s[c] for c in CAUSES if c in lost_s},
    )


def _step_times(steps: Sequence[Steps], kept: float) -> tuple[float, dict[str, float]]:
    """Seconds of useful steps, and of those that were slow or are repeated."""
    lost_s = dict.fromkeys((cause for cause in CAUSES if cause != "queue"), 0.0)
    useful_s = 0.0
    usual_s = median(one.step_s for one in steps) if steps else 0.0
    for one in steps:
        count = one.last - one.first + 1
        useful = max(0, min(count, min(kept, one.last) - one.first + 1))
        good_s = usual_s if one.step_s > SLOW * usual_s else one.step_s
        useful_s += useful * good_s
        lost_s["slow"] += useful * (one.step_s - good_s)
        lost_s["rework"] += (count - useful) * one.step_s
    return useful_s, lost_s


def _pauses(attempt: AttemptFacts) -> list[tuple[str, float]]:
    """Between steps: a validation comes before the save after the same step."""
    found = []
    for before, after in zip(attempt.steps, attempt.steps[1:], strict=False):
        began, step = before.ended, before.last
        if step in attempt.validated:
            found.append(("validation", attempt.validated[step] - began))
            began = attempt.validated[step]
        found.append(("save" if step in attempt.saved else "other", after.began - began))
    return found


def _ends(attempt: AttemptFacts) -> list[tuple[str, float]]:
    """Before the first step that is known of, and after the last."""
    if not attempt.steps:
        cause = "hang" if attempt.hung else "start"
        return [(cause, attempt.ended - attempt.started)]
    if attempt.hung:
        cause = "hang"
    elif attempt.running:
        cause = "other"
    else:
        cause = "rework" if attempt.failed else "save"
    last = attempt.steps[-1].ended
    return [("start", attempt.steps[0].began - attempt.started), (cause, attempt.ended - last)]
