"""How long a rank may be silent is learned from the run, phase by phase."""

from pathlib import Path

import pytest

from cluster.hangs import silence
from cluster.hangs.silence import HangWatch, Limits
from cluster.run_folder import AttemptFolder, RunFolder, write_json

LIMITS = Limits(first_s=100.0, floor_s=3.0, factor=10.0)


class Clock:
    """Time that passes when told to."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(silence, "time", clock)
    return clock


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFolder:
    run = RunFolder(tmp_path)
    return run.attempt(run.begin_attempt())


def watch_of(attempt: AttemptFolder, ranks: int = 1) -> HangWatch:
    return HangWatch(RunFolder(attempt.root.parents[1]), attempt, range(ranks), LIMITS)


def say(attempt: AttemptFolder, clock: Clock, phase: str, rank: int = 0, step: int = 0) -> None:
    beat = {"rank": rank, "phase": phase, "step": step, "monotonic_s": clock.now_s}
    write_json(attempt.heartbeat(rank), beat)


def silent_for(watch: HangWatch, clock: Clock, seconds: int) -> int | None:
    """Look once a second; after how many of them the watch has had enough."""
    for second in range(1, seconds + 1):
        clock.now_s += 1
        if watch.look([0]):
            return second
    return None


def test_a_phase_that_nobody_has_left_yet_may_take_long(
    attempt: AttemptFolder, clock: Clock
) -> None:
    watch = watch_of(attempt)
    assert silent_for(watch, clock, 99) is None  # imports, before the first beat
    say(attempt, clock, "load")
    assert silent_for(watch, clock, 200) == 102  # found at the first look, then 100 and one more


def test_a_phase_may_take_ten_times_its_longest_and_never_less_than_the_floor(
    attempt: AttemptFolder, clock: Clock
) -> None:
    watch = watch_of(attempt)
    for step, seconds in enumerate((1, 2, 1)):
        say(attempt, clock, "train", step=step)
        assert silent_for(watch, clock, seconds) is None
    say(attempt, clock, "save", step=3)
    watch.look([0])
    say(attempt, clock, "train", step=4)
    watch.look([0])
    assert watch.longest_s == {"start": 1.0, "train": 2.0, "save": 0.0}
    assert silent_for(watch, clock, 60) == 21
    say(attempt, clock, "save", step=5)
    watch.look([0])
    assert silent_for(watch, clock, 60) == 4


def test_who_is_silent_is_named_with_its_phase_and_for_how_long(
    attempt: AttemptFolder, clock: Clock
) -> None:
    watch = watch_of(attempt, ranks=2)
    for step in range(20):
        clock.now_s += 1
        say(attempt, clock, "train", rank=0, step=step)
        say(attempt, clock, "train", rank=1, step=min(step, 5))
        if step > 5:
            write_json(attempt.heartbeat(1), {"rank": 1, "phase": "train", "step": 5})
        found = watch.look([0, 1])
        if found:
            break
    assert found is not None
    assert (found.rank, found.phase, found.step, found.limit_s) == (1, "train", 5, 10.0)
    assert found.silent_s == 11.0


def test_what_an_earlier_attempt_took_is_known(
    attempt: AttemptFolder, clock: Clock, tmp_path: Path
) -> None:
    for host, seconds in (("a", 0.5), ("b", 4.0)):
        write_json(attempt.node_record(host), {"longest_silence_s": {"load": seconds}})
    run = RunFolder(tmp_path)
    second = run.attempt(run.begin_attempt())
    watch = watch_of(second)
    say(second, clock, "load")
    watch.look([0])
    assert silent_for(watch, clock, 200) == 41


def test_a_pause_of_the_agent_itself_is_not_its_ranks_silence(
    attempt: AttemptFolder, clock: Clock
) -> None:
    watch = watch_of(attempt)
    say(attempt, clock, "train")
    watch.look([0])
    clock.now_s += 10_000  # a machine that stood still, with all that ran on it
    assert watch.look([0]) is None
