"""Intervals and differences: against published tables, hand-computed cases and simulation."""

import numpy as np
import pytest

from evalfarm.metrics.frechet_distance import frechet_distance, gaussian
from evalfarm.results.statistics import (
    bootstrap,
    bootstrap_difference,
    common_pictures,
    holm,
    mean,
    mean_difference,
    student_t_quantile,
    student_t_within,
    whole_set,
)
from evalfarm.rows import Rows
from tests.unit.evalfarm.conftest import rows_of

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2: two-sided 95 %.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 29: 2.045, 100: 1.984}


@pytest.mark.parametrize(("degrees", "expected"), T_TABLE.items())
def test_quantiles_of_t_are_those_of_the_table(degrees: int, expected: float) -> None:
    assert student_t_quantile(0.95, degrees) == pytest.approx(expected, abs=5e-4)
    assert student_t_within(expected, degrees) == pytest.approx(0.95, abs=1e-4)


def test_with_one_picture_a_prompt_the_interval_is_the_textbook_one() -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0])
    found = mean(values, np.arange(4))
    assert found is not None
    reach = 3.18245 * values.std(ddof=1) / 2  # t(3) s / √n
    assert (found.low, found.high) == pytest.approx((3.5 - reach, 3.5 + reach), rel=1e-5)


def test_a_prompt_told_twice_is_no_second_prompt() -> None:
    values, prompts = np.array([0.1, 0.9, 0.4]), np.arange(3)
    once = mean(values, prompts)
    twice = mean(np.repeat(values, 2), np.repeat(prompts, 2))
    assert once is not None
    assert twice is not None
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


def test_intervals_hold_the_truth_19_times_in_20() -> None:
    chance = np.random.default_rng(1)
    prompts = np.repeat(np.arange(12), 4)
    held = 0
    for _ in range(1000):
        values = chance.normal(size=12)[prompts] + 0.5 * chance.normal(size=48)
        found = mean(values, prompts)
        assert found is not None
        held += found.low < 0 < found.high
    assert 930 <= held <= 970


def test_where_nothing_varied_there_is_no_interval() -> None:
    assert mean(np.full(5, 0.3), np.arange(5)) is None
    assert mean(np.array([0.1, 0.7]), np.zeros(2, np.int64)) is None  # one prompt
    assert whole_set(1.0, np.full(9, 1.0)) is None


def test_prompts_that_all_moved_alike_are_judged_by_their_number() -> None:
    few = mean_difference(np.ones(3), np.arange(3))
    many = mean_difference(np.ones(12), np.arange(12))
    none = mean_difference(np.zeros(12), np.arange(12))
    assert few is not None
    assert many is not None
    assert none is not None
    assert (few.p, many.p, none.p) == (0.25, 2**-11, 1.0)


def test_pairing_sees_what_two_means_do_not() -> None:
    chance = np.random.default_rng(2)
    hard, prompts = chance.normal(size=40) * 10, np.arange(40)
    before, after = hard, hard + 1 + 0.5 * chance.normal(size=40)
    means = [mean(values, prompts) for values in (before, after)]
    paired = mean_difference(after - before, prompts)
    assert means[0] is not None
    assert means[1] is not None
    assert means[0].high > means[1].low  # they overlap
    assert paired is not None
    assert paired.low > 0
    assert paired.p < 1e-6


def test_the_bootstrap_of_a_mean_agrees_with_its_formula() -> None:
    values = np.random.default_rng(3).normal(size=60)
    rows = rows_of([{"x": value} for value in values], samples_per_prompt=2)
    (resampled,) = bootstrap(rows, 2000, lambda some: {"x": some.numbers["x"].mean()}).values()
    formula, found = mean(values, rows.prompts), whole_set(float(values.mean()), resampled)
    assert formula is not None
    assert found is not None
    assert found.high - found.low == pytest.approx(formula.high - formula.low, rel=0.08)


def test_a_distance_lies_within_its_interval_though_its_resamples_do_not() -> None:
    chance = np.random.default_rng(4)
    features, real = chance.normal(size=(40, 6)), chance.normal(size=(200, 6)) + 0.3
    rows = rows_of(features=features)

    def distance(some: Rows) -> dict[str, float]:
        assert some.features is not None
        return {"distance": frechet_distance(gaussian(some.features), gaussian(real))}

    value, (resampled,) = distance(rows)["distance"], bootstrap(rows, 200, distance).values()
    assert resampled.mean() > value + 0.5 * resampled.std()  # why percentiles would be wrong
    found = whole_set(value, resampled)
    assert found is not None
    assert found.low < value < found.high
    assert np.array_equal(bootstrap(rows, 200, distance)["distance"], resampled)  # no new chance


def test_two_checkpoints_are_resampled_alike() -> None:
    chance = np.random.default_rng(5)
    before = rows_of([{"x": value} for value in chance.normal(size=30) * 10])
    after = rows_of([{"x": value + 1} for value in before.numbers["x"]])
    moved = bootstrap_difference(before, after, 50, lambda some: {"x": some.numbers["x"].mean()})
    np.testing.assert_allclose(moved["x"], 1)  # exact: what is common falls out of each resample


def test_only_pictures_of_both_sides_are_paired() -> None:
    rows = rows_of([{"x": float(place)} for place in range(6)], samples_per_prompt=2)
    first, second = common_pictures([rows.take(np.array([0, 1, 3, 5])), rows.take(np.arange(1, 5))])
    assert first.numbers["x"].tolist() == second.numbers["x"].tolist() == [1, 3]


def test_asking_many_columns_raises_each_p() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
