"""Jobs as SLURM tells of them: asked once for all, and seldom."""

import time

import pytest

from cluster.slurm import queue as slurm_queue
from cluster.slurm.queue import QueuedJob, look_up, parse_sacct, parse_squeue
from tests.fake_slurm import FakeSlurm

# `squeue --array --format=%i|%T|%r|%N --states=all` of 22.05.8.
SQUEUE = """\
7|PENDING|BeginTime|
6|PENDING|Priority|
5|RUNNING|None|gpu[11-12]
4|COMPLETING|None|gpu11
3|NODE_FAIL|None|gpu12
2|TIMEOUT|TimeLimit|gpu11
"""
DISABLED = "Slurm accounting storage is disabled"
DATABASE_IS_DOWN = "sacct: error: Problem talking to the database: Connection refused"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(slurm_queue.time, "time", clock.time)
    return clock


def test_every_state_is_waiting_going_on_or_over() -> None:
    jobs = parse_squeue(SQUEUE)
    assert [number for number, job in jobs.items() if job.waits] == ["7", "6"]
    assert [number for number, job in jobs.items() if job.goes_on] == ["5", "4"]
    assert [number for number, job in jobs.items() if job.has_ended] == ["3", "2"]
    assert str(jobs["6"]) == "PENDING (Priority)"
    assert str(jobs["5"]) == "RUNNING on gpu[11-12]"


@pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED", "STAGE_OUT", "UPDATE_DB", "A_NEW_WORD"])
def test_what_is_not_known_to_have_ended_goes_on(state: str) -> None:
    job = QueuedJob(state=state)
    assert (job.waits, job.goes_on, job.has_ended) == (False, True, False)


@pytest.mark.parametrize("state", ["REVOKED", "BOOT_FAIL", "OUT_OF_ME", "GONE"])
def test_what_has_ended_is_known_by_its_word_even_if_that_is_cut_short(state: str) -> None:
    assert QueuedJob(state=state).has_ended


def test_tasks_of_an_array_are_jobs_of_their_own() -> None:
    jobs = parse_squeue("1_3|PENDING|JobArrayTaskLimit|\n1_0|RUNNING|None|n1\n2|RUNNING|None|n1\n")
    assert {number: job.state for number, job in jobs.items()} == {
        "1_3": "PENDING",
        "1_0": "RUNNING",
        "2": "RUNNING",
    }


def test_the_last_life_of_a_job_counts_in_the_accounting() -> None:
    told = parse_sacct("3|PREEMPTED|gpu1\n3|CANCELLED by 1000|gpu2\n4|OUT_OF_ME+|None assigned\n")
    assert told["3"] == QueuedJob(state="CANCELLED", nodes="gpu2")
    assert told["4"] == QueuedJob(state="OUT_OF_ME", nodes="")


def test_tasks_that_never_started_share_a_line_in_the_accounting() -> None:
    lines = (  # of 22.05.8, the last with fewer tasks
        "3_[0-3]|CANCELLED by 0|None assigned",
        "4_[0,2-3]|PENDING|None assigned",
        "5_[1,3%2]|CANCELLED by 0|None assigned",
        "8_[78,80,85,87,89,91...]|CANCELLED by 0|None assigned",
    )
    told = parse_sacct("\n".join(lines))
    assert {number: job.state for number, job in told.items()} == {
        **dict.fromkeys(("3_0", "3_1", "3_2", "3_3"), "CANCELLED"),
        **dict.fromkeys(("4_0", "4_2", "4_3"), "PENDING"),
        **dict.fromkeys(("5_1", "5_3"), "CANCELLED"),
        # Not 8_91, which may be cut short itself.
        **dict.fromkeys(("8_78", "8_80", "8_85", "8_87", "8_89"), "CANCELLED"),
    }


def test_however_many_runs_are_watched_slurm_is_asked_once_in_half_a_minute(
    fake_slurm: FakeSlurm, clock: Clock
) -> None:
    fake_slurm.answers("squeue", SQUEUE)
    for number in ("5", "6", "7", "5"):
        job = look_up({number: clock.now - 60}).job(number, clock.now - 60)
        assert job == parse_squeue(SQUEUE)[number]
        clock.now += 7
    assert len(fake_slurm.calls()) == 1
    clock.now += 7
    look_up({"5": 0.0})
    assert len(fake_slurm.calls()) == 2


def test_a_job_that_is_newer_than_the_answer_is_not_taken_for_gone(
    fake_slurm: FakeSlurm, clock: Clock
) -> None:
    fake_slurm.answers("squeue", SQUEUE)
    look_up({"5": 0.0})
    clock.now += 1
    assert look_up({"8": clock.now}).job("8", clock.now) is None


def test_what_the_controller_forgot_the_accounting_is_asked_once(
    fake_slurm: FakeSlurm, clock: Clock
) -> None:
    fake_slurm.answers("squeue", SQUEUE)
    fake_slurm.answers("sacct", "1|CANCELLED by 0|gpu11\n")
    states = []
    for _ in range(4):
        states.append(str(look_up({"1": 0.0}).job("1", 0.0)))
        clock.now += 31
    assert states == ["GONE", *["CANCELLED on gpu11"] * 3]
    # Never two questions in a turn.
    assert [call.split()[0] for call in fake_slurm.calls()] == ["squeue", "sacct", *["squeue"] * 2]


def test_of_tasks_the_accounting_is_asked_by_their_array_and_told_by_the_numbers_that_it_prints(
    fake_slurm: FakeSlurm, clock: Clock
) -> None:
    # sacct --jobs=1_3 finds nothing where the line is that of 1_[3-4].
    fake_slurm.answers("squeue", SQUEUE)
    fake_slurm.answers("sacct", "1_2|TIMEOUT|n1\n1_[3-4]|CANCELLED by 0|None assigned\n")
    wanted = {"1_2": 0.0, "1_3": 0.0}
    look_up(wanted)
    clock.now += 31
    queue = look_up(wanted)
    assert [str(queue.job(number, 0.0)) for number in wanted] == ["TIMEOUT on n1", "CANCELLED"]
    (call,) = fake_slurm.calls("sacct")
    assert call.endswith("--format=JobID,State,NodeList --jobs=1")


def test_while_the_accounting_does_not_answer_the_controller_is_asked_in_turn(
    fake_slurm: FakeSlurm, clock: Clock
) -> None:
    fake_slurm.answers("squeue", SQUEUE)
    fake_slurm.answers("sacct", stderr=DATABASE_IS_DOWN, code=1)
    states, failures = [], []
    for turn in range(6):
        if turn == 4:
            fake_slurm.answers("sacct", "1|CANCELLED by 0|gpu11\n")
        queue = look_up({"1": 0.0})
        states.append(str(queue.job("1", 0.0)))
        failures.append(queue.failure is not None)
        clock.now += 31
    asked = [call.split()[0] for call in fake_slurm.calls()]
    assert asked == ["squeue", "sacct", "squeue", "sacct", "squeue", "sacct"]
    assert failures == [False, True, False, True, False, False]
    assert states == [*["GONE"] * 5, "CANCELLED on gpu11"]


def test_without_accounting_a_forgotten_job_is_gone(fake_slurm: FakeSlurm, clock: Clock) -> None:
    fake_slurm.answers("squeue", SQUEUE)
    fake_slurm.answers("sacct", stderr=DISABLED, code=1)
    for _ in range(3):
        queue = look_up({"1": 0.0})
        assert queue.job("1", 0.0) == QueuedJob(state="GONE")
        assert queue.failure is None
        clock.now += 31
    assert len(fake_slurm.calls("sacct")) == 1


def test_a_controller_that_does_not_answer_is_not_asked_again_at_once(
    fake_slurm: FakeSlurm, clock: Clock
) -> None:
    fake_slurm.answers("squeue", SQUEUE)
    look_up({"5": 0.0})
    clock.now += 31
    reason = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    fake_slurm.answers("squeue", stderr=reason, code=1)
    for _ in range(2):
        queue = look_up({"5": 0.0})
        assert "Unable to contact slurm controller" in str(queue.failure)
        assert str(queue.job("5", 0.0)) == "RUNNING on gpu[11-12]"  # as it said before
        assert queue.asked == clock.now - 31
    assert len(fake_slurm.calls()) == 2


def test_only_our_own_jobs_are_asked_for(fake_slurm: FakeSlurm) -> None:
    fake_slurm.answers("squeue", SQUEUE)
    look_up({"5": time.time() - 60})
    assert "--user=" in fake_slurm.calls()[0]


def test_where_the_answer_cannot_be_kept_slurm_is_not_asked(
    fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on nodes that may not write into the home.
    fake_slurm.answers("squeue", SQUEUE)
    (fake_slurm.bin.parent / "home").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fake_slurm.bin.parent / "home"))
    queue = look_up({"5": 0.0})
    assert queue.job("5", since=0.0) is None
    assert (
        queue.failure == f"cannot write {fake_slurm.bin.parent}/home/letterpress: Not a directory"
    )
    assert fake_slurm.calls() == []
