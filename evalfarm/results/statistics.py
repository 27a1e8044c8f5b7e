"""How sure a number is: 95 % intervals, and differences between two checkpoints.

Pictures of one prompt are alike, so the prompt is what was drawn by chance, not the picture. A mean
over n pictures x of C prompts has the clustered standard error

    SE = 1/n √( C/(C-1) Σ_prompts (Σ_pictures of the prompt (x - mean))² )

and its interval is mean ± t(C-1) SE: Miller 2024, "Adding error bars to evals", arXiv 2411.00640,
with the usual correction for few clusters. A difference of two checkpoints is taken picture by
picture, same prompt and same noise, so that what makes a prompt hard for both falls out.

A number made of the whole set (F1, a distance) gets its standard error from a bootstrap over
prompts: Efron and Tibshirani 1993, chapter 6. The interval is value ± z SE, not percentiles of the
resamples: a Fréchet distance of a resample, which names pictures twice, is too high, and so are its
percentiles. Real pictures are not resampled: the interval is about prompts, given these references.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evalfarm.rows import Rows

CONFIDENCE = 0.95
SEED = 0
NO_SPREAD = 1e-12  # what rounding leaves of equal values
NORMAL = NormalDist()

Numbers = NDArray[np.float64]
Summary = Callable[[Rows], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, how far it may be off, and whether it could be 0."""

    value: float
    low: float
    high: float
    """The 95 % interval."""
    p: float
    """How often chance alone would bring it at least so far from 0, if it were 0."""


def mean(values: Numbers, prompts: NDArray[np.int64]) -> Estimate | None:
    """The mean over pictures, clustered by prompt.

    None with fewer than two prompts, or where all have the same mean: nothing varied, so nothing
    tells how much could.
    """
    spread = _standard_error(values, prompts)
    return _by_t(float(np.mean(values)), spread, _count(prompts)) if spread else None


def mean_difference(differences: Numbers, prompts: NDArray[np.int64]) -> Estimate | None:
    """The mean of paired differences, clustered by prompt; None with fewer than two prompts.

    Where all prompts moved alike there is no spread for t: then p is the sign test's, 2^(1 - C).
    """
    clusters = _count(prompts)
    if clusters < 2:
        return None
    value, spread = float(np.mean(differences)), _standard_error(differences, prompts)
    if spread:
        return _by_t(value, spread, clusters)
    return Estimate(value=value, low=value, high=value, p=2.0 ** (1 - clusters) if value else 1.0)


def common_pictures(several: Sequence[Rows]) -> list[Rows]:
    """Of each the rows of those pictures that all have, in the same order."""
    names = [rows.prompts * 2**32 + rows.samples for rows in several]
    common = reduce(np.intersect1d, names)
    # A ledger gives rows in the order of the suite, so a mask leaves the same order on all sides.
    return [rows.take(np.isin(name, common)) for rows, name in zip(several, names, strict=True)]


def whole_set(value: float, resampled: Numbers) -> Estimate | None:
    """A number made of the whole set, by its resamples; None where they do not vary."""
    spread = float(np.std(resampled, ddof=1)) if len(resampled) > 1 else 0.0
    if spread <= NO_SPREAD * max(1.0, abs(value)):
        return None
    reach = NORMAL.inv_cdf((1 + CONFIDENCE) / 2) * spread
    p = 2 * NORMAL.cdf(-abs(value) / spread)
    return Estimate(value=value, low=value - reach, high=value + reach, p=p)


def resamples(prompts: NDArray[np.int64], count: int) -> Iterator[NDArray[np.int64]]:
    """Places of the rows of as many prompts as there are, drawn with replacement; `count` times.

    The same for the same prompts: two checkpoints with the same pictures are resampled alike.
    """
    different, counts = np.unique(prompts, return_counts=True)
    places = np.split(np.argsort(prompts, kind="stable"), np.cumsum(counts)[:-1])
    chance, n = np.random.default_rng(SEED), len(different)
    for _ in range(count if n > 1 else 0):
        yield np.concatenate([places[drawn] for drawn in chance.integers(0, n, n)])


def bootstrap(rows: Rows, count: int, summary: Summary) -> dict[str, Numbers]:
    """The values of each column over `count` resamples of the prompts."""
    return _columns([summary(rows.take(places)) for places in resamples(rows.prompts, count)])


def bootstrap_difference(
    first: Rows, second: Rows, count: int, summary: Summary
) -> dict[str, Numbers]:
    """As `bootstrap`, of second minus first; both hold the same pictures in the same order."""
    found = []
    for places in resamples(first.prompts, count):
        before, after = summary(first.take(places)), summary(second.take(places))
        found.append({name: after[name] - before[name] for name in before.keys() & after.keys()})
    return _columns(found)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p of each of several questions when all are asked at once (Holm 1979)."""
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def student_t_within(t: float, degrees: int) -> float:
    """The chance that |T| < t for Student's T with that many degrees of freedom.

    The closed form for whole numbers of them: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    angle = atan(t / sqrt(degrees))
    odd = degrees % 2
    steps = np.arange(1 + odd, degrees - 2, 2, dtype=np.float64)  # 2, 4, … or 1, 3, …
    terms = np.concatenate([[1.0], np.cumprod(steps / (steps + 1) * cos(angle) ** 2)])
    if not odd:
        return float(sin(angle) * terms.sum())
    series = sin(angle) * cos(angle) * terms.sum() if degrees > 1 else 0.0
    return float((angle + series) * 2 / pi)


def student_t_quantile(within: float, degrees: int) -> float:
    """The t that |T| stays below with a chance of `within`, by halving."""
    low, high = 0.0, 1.0
    while student_t_within(high, degrees) < within:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_within(middle, degrees) < within else (low, middle)
    return high


def _by_t(value: float, spread: float, clusters: int) -> Estimate:
    reach = student_t_quantile(CONFIDENCE, clusters - 1) * spread
    p = max(0.0, 1 - student_t_within(abs(value) / spread, clusters - 1))
    return Estimate(value=value, low=value - reach, high=value + reach, p=p)


def _standard_error(values: Numbers, prompts: NDArray[np.int64]) -> float:
    clusters = _count(prompts)
    if clusters < 2:
        return 0.0
    _, places = np.unique(prompts, return_inverse=True)
    sums = np.bincount(places, weights=values - np.mean(values))
    if np.allclose(sums, 0, atol=NO_SPREAD * max(1.0, float(np.abs(values).max()))):
        return 0.0
    return sqrt(clusters / (clusters - 1) * float(sums @ sums)) / len(values)


def _count(prompts: NDArray[np.int64]) -> int:
    return len(np.unique(prompts))


def _columns(found: Sequence[Mapping[str, float]]) -> dict[str, Numbers]:
    """Values by column, of those that every resample had."""
    names = set.intersection(*(set(one) for one in found)) if found else set()
    return {name: np.array([one[name] for one in found]) for name in sorted(names)}
