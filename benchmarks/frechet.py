"""python -m benchmarks.frechet: a FID from its features, by us and by SciPy's root of a matrix.

Both begin with 2048 features of each picture in float32, as the ledger holds them, and end with the
distance; networks take no part. SciPy's side is that of the published program: covariances, sqrtm
of their product, the real part of its trace. Made-up features, not negative, with a falling
spectrum, as Inception's pool features have it.
"""

import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Read by NumPy's BLAS and SciPy's when they are first imported. Threads that wait for each other on
# a busy machine measure the machine.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from benchmarks.machine import machine
from evalfarm.metrics.frechet_distance import frechet_distance, gaussian

HERE = Path(__file__).parent
DIM = 2048
WITHIN = 1e-4

Features = NDArray[np.float32]


def main() -> None:
    """Measure each case, print it, and write all beside this file."""
    measured_on = machine()
    real, many, few = draw(0, 10_000), draw(1, 10_000, spread=1.1), draw(2, 500, spread=1.1)
    cases = {
        "10,000 pictures to 10,000": measure(many, real),
        "500 pictures to 10,000": measure(few, real),
        "500 pictures to themselves": measure(few, few),
    }
    known = gaussian(real)
    again = {
        f"{len(pictures):,} pictures": timed(lambda p=pictures: distance(p, known))[0]
        for pictures in (many, few)
    }
    aims = targets(cases)
    report = {
        "command": "python -m benchmarks.frechet",
        "unit": "seconds of one core's time, one run",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("numpy", "scipy")},
        "features": DIM,
        "cases": cases,
        "seconds_once_the_real_pictures_are_known": again,
        "targets": aims,
    }
    path = HERE / "results" / "frechet-cpu.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    for name, case in cases.items():
        print(name, case)
    print("once the real pictures are known", again)
    for aim in aims:
        print(f"{aim['target']}: {aim['measured']}, {'met' if aim['met'] else 'missed'}")
    print(f"wrote {path}")


def measure(pictures: Features, real: Features) -> dict[str, float]:
    """Both sides of one case."""
    seconds, found = timed(lambda: ours(pictures, real))
    seconds_scipy, expected = timed(lambda: by_root(pictures, real))
    return {
        "seconds": seconds,
        "seconds_scipy": seconds_scipy,
        "ratio": round(seconds_scipy / seconds, 2),
        "distance": found,
        "distance_scipy": expected,
        "difference": abs(found - expected),
    }


def ours(pictures: Features, real: Features) -> float:
    """The distance, from nothing."""
    return distance(pictures, gaussian(real))


def distance(pictures: Features, known: Any) -> float:
    """The distance to real pictures whose statistics are there."""
    return frechet_distance(gaussian(pictures), known)


def by_root(pictures: Features, real: Features) -> float:
    """The distance as it was first computed."""
    sides = [side.astype(np.float64) for side in (pictures, real)]
    gap = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    first, second = (np.cov(side, rowvar=False) for side in sides)
    root = sqrtm(first @ second)
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def timed(compute: Callable[[], float]) -> tuple[float, float]:
    """Seconds of one core's time, and what was computed."""
    start = time.process_time()
    found = compute()
    return round(time.process_time() - start, 2), found


def draw(seed: int, pictures: int, spread: float = 1.0) -> Features:
    """Features of so many pictures."""
    falling = np.exp(-np.arange(DIM) / 300)
    mixing = np.random.default_rng(99).normal(size=(DIM, DIM)) * falling[:, None]
    chance = np.random.default_rng(seed)
    mixed = chance.normal(size=(pictures, DIM)) @ mixing * (spread * 0.3 / np.linalg.norm(falling))
    return np.maximum(0, mixed + 0.3).astype(np.float32)


def targets(cases: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What was set out to reach, and whether it is."""
    large, same = cases["10,000 pictures to 10,000"], cases["500 pictures to themselves"]
    error = large["difference"] / large["distance_scipy"]
    return [
        {
            "target": f"within {WITHIN} of SciPy's, of the distance, where Σ has full rank",
            "measured": float(f"{error:.2g}"),
            "met": error <= WITHIN,
        },
        {
            "target": "pictures to themselves are at no distance, however few (1e-9)",
            "measured": float(f"{same['distance']:.2g}"),
            "met": same["distance"] <= 1e-9,
        },
        {
            "target": "no slower than SciPy's",
            "measured": large["ratio"],
            "met": large["ratio"] >= 1,
        },
    ]


if __name__ == "__main__":
    main()
