"""The Frechet distance at 2048 dimensions against ADM's formula with scipy.linalg.sqrtm: `python -m tests.benchmarks.frechet`.

Covariances of features whose variances fall off over six orders of magnitude, as those of real networks do: once of more
images than dimensions, once of fewer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from star.evaluate.frechet import Moments, frechet_distance

DIM = 2048


def by_scipy(first: Moments, second: Moments) -> float:
    """As ADM's evaluator computes it."""
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    offset = first.mean - second.mean
    return float(offset @ offset + np.trace(first.covariance + second.covariance - 2 * np.real(root)))


def moments(count: int, seed: int) -> Moments:
    """Of `count` drawn features."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, DIM)))[0]
    rows = rng.normal(size=(count, DIM)) * np.exp(-np.arange(DIM) / 300) @ basis + 0.02 * seed
    return Moments(rows.mean(0), np.cov(rows, rowvar=False))


def timed(function: Callable[[], float], runs: int) -> tuple[float, float]:
    """(value, fastest seconds)."""
    seconds, value = [], 0.0
    for _ in range(runs):
        started = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - started)
    return value, min(seconds)


def main() -> None:
    """Print seconds, ratio and relative difference of each case."""
    sys.stdout.write("| images | scipy s | star s | ratio | relative difference |\n|---|---:|---:|---:|---:|\n")
    for counts in ((6000, 5000), (6000, 1500), (1500, 1500)):
        first, second = moments(counts[0], 0), moments(counts[1], 1)
        theirs, slow = timed(lambda: by_scipy(first, second), 1)  # noqa: B023
        ours, fast = timed(lambda: frechet_distance(first, second), 3)  # noqa: B023
        sys.stdout.write(
            f"| {counts[0]} and {counts[1]} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} | {abs(ours - theirs) / theirs:.1e} |\n"
        )


if __name__ == "__main__":
    main()
