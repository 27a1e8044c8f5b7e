"""Where GPU-hours went, against accounts that were made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.accounts.accounting import CAUSES, Account, AttemptFacts, Steps, accounts, total


def steps(first: int, last: int, began: float, step_s: float = 1.0) -> Steps:
    """Steps in a row, from when the first began."""
    ended = began + (last - first + 1) * step_s
    return Steps(first=first, last=last, ended=ended, step_s=step_s)


# 100 s until the first step, 20 steps of a second, a save of 5 s, 20 steps, 3 s for the last save.
WHOLE = AttemptFacts(
    number=0,
    ranks=8,
    started=1000,
    ended=1148,
    resumed_from=0,
    steps=(steps(1, 20, 1100), steps(21, 40, 1125)),
    saved=frozenset({20, 40}),
)


def account(*attempts: AttemptFacts, newest: int = 0) -> list[Account]:
    return accounts(attempts, newest)


def lost(part: Account) -> dict[str, Any]:
    """What was lost to which cause, without those that cost nothing."""
    return {cause: pytest.approx(s) for cause, s in part.lost_s.items() if s}


def test_every_second_of_every_gpu_is_counted_once() -> None:
    (part,) = account(WHOLE)
    assert part.useful_s == pytest.approx(8 * 40)
    assert lost(part) == {"start": 8 * 100, "save": 8 * (5 + 3)}
    assert part.used_s == pytest.approx(8 * 148)
    assert part.goodput == pytest.approx(40 / 148)


def test_the_queue_is_requested_and_not_used() -> None:
    (part,) = account(replace(WHOLE, queued=400))
    assert part.lost_s["queue"] == 8 * 600
    assert part.requested_s == pytest.approx(8 * 748)
    assert part.goodput == pytest.approx(40 / 148)
    (unknown,) = account(WHOLE)
    assert "queue" not in unknown.lost_s  # absent, never zero


def test_a_queue_begins_no_earlier_than_the_attempt_before_it_ended() -> None:
    again = replace(WHOLE, number=1, queued=400, started=1268, ended=1416, resumed_from=40)
    _, part = account(replace(WHOLE, queued=400), replace(again, steps=()))
    assert part.lost_s["queue"] == 8 * (1268 - 1148)


def test_steps_that_a_later_attempt_repeats_are_rework() -> None:
    failed = replace(WHOLE, failed=True)
    again = replace(WHOLE, number=1, started=2000, ended=2131, resumed_from=20)
    again = replace(again, steps=(steps(21, 40, 2110),), saved=frozenset({40}))
    first, second = account(failed, again, newest=40)
    assert first.useful_s == pytest.approx(8 * 20)
    # The steps, and the time after the last that is known of: nobody knows what it was spent on.
    assert lost(first) == {"start": 8 * 100, "save": 8 * 5, "rework": 8 * (20 + 3)}
    assert second.useful_s == pytest.approx(8 * 20)


def test_steps_after_the_last_checkpoint_are_lost_when_it_failed() -> None:
    (part,) = account(replace(WHOLE, failed=True), newest=30)
    assert part.useful_s == pytest.approx(8 * 30)
    assert part.lost_s["rework"] == pytest.approx(8 * (10 + 3))
    (never,) = account(replace(WHOLE, failed=True), newest=0)
    assert never.useful_s == 0


def test_an_attempt_that_was_resumed_from_before_its_checkpoint_counts_only_until_there() -> None:
    again = replace(WHOLE, number=2, started=3000, ended=3148, resumed_from=10, steps=())
    between = replace(again, number=1, resumed_from=None)  # it did not come to load anything
    first, *_ = account(WHOLE, between, again, newest=40)
    assert first.useful_s == pytest.approx(8 * 10)


def test_steps_far_above_the_median_are_slow_by_what_is_above() -> None:
    slow = replace(
        WHOLE, ended=1000 + 100 + 30 + 50, steps=(
            steps(1, 10, 1100), steps(11, 20, 1110, step_s=1.4), steps(21, 30, 1124, step_s=5.0),
            steps(31, 36, 1174),
        ), saved=frozenset(),
    )  # fmt: skip
    (part,) = account(slow)
    usual_s = 1.2  # the median of 1, 1, 1.4 and 5
    assert part.lost_s["slow"] == pytest.approx(8 * 10 * (5 - usual_s))
    assert part.useful_s == pytest.approx(8 * (10 + 14 + 10 * usual_s + 6))
    assert part.used_s == pytest.approx(8 * 180)


def test_a_validation_is_told_from_the_save_after_it() -> None:
    (part,) = account(replace(WHOLE, validated={20: 1123.5}))
    assert part.lost_s["validation"] == pytest.approx(8 * 3.5)
    assert part.lost_s["save"] == pytest.approx(8 * (1.5 + 3))


def test_a_hang_takes_all_after_the_last_known_step() -> None:
    hung = replace(WHOLE, ended=1145 + 600, failed=True, hung=True)
    (part,) = account(hung, newest=40)
    assert part.lost_s["hang"] == pytest.approx(8 * 600)
    (at_start,) = account(replace(hung, steps=(), resumed_from=None))
    assert at_start.lost_s["hang"] == pytest.approx(8 * 745)
    assert at_start.goodput == 0


def test_an_attempt_that_never_made_a_step_is_all_start() -> None:
    (part,) = account(replace(WHOLE, steps=(), failed=True, resumed_from=None))
    assert lost(part) == {"start": 8 * 148}


def test_a_running_attempt_keeps_its_steps() -> None:
    (part,) = account(replace(WHOLE, running=True), newest=0)
    assert part.useful_s == pytest.approx(8 * 40)
    assert part.lost_s["other"] == pytest.approx(8 * 3)  # what it does now is told at its next step


def test_clocks_that_differ_make_nothing_negative() -> None:
    (part,) = account(replace(WHOLE, started=1105, ended=1146, queued=1110))
    assert min(part.lost_s.values()) >= 0


def test_accounts_add_up() -> None:
    queued = replace(WHOLE, queued=900)
    one, other = account(queued)[0], account(WHOLE)[0]
    both = total([one, other])
    assert both.useful_s == one.useful_s + other.useful_s
    assert both.lost_s["queue"] == one.lost_s["queue"]
    assert both.requested_s == pytest.approx(one.requested_s + other.requested_s)
    assert set(both.lost_s) == set(CAUSES)
    assert total([]).goodput is None
    assert both.hours()["used"] == pytest.approx(2 * 8 * 148 / 3600)
