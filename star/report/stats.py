"""Statistics over seeds: intervals of weighted sums of row means, effect sizes, and how many seeds would decide.

A contrast is sum_i w_i mean_i over rows with unequal variances: Welch's t, with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance

LEVEL = 0.95
POWER = 0.8
MAX_SEEDS = 1000
BOOTSTRAP = 10_000
MIN_BOOTSTRAP = 5
"""Fewest seeds per row for the bootstrap: resampling fewer gives intervals that are far too short."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds at `level`; none if a row has too few seeds or, for method `t`, no row a spread."""

    estimate: float
    low: float | None = None
    high: float | None = None
    level: float = LEVEL


@dataclass(frozen=True)
class Sample:
    """One row's values, one per seed, and its weight in a contrast."""

    weight: float
    values: Sequence[float]


def contrast(samples: Sequence[Sample], level: float = LEVEL, method: str = "t") -> Interval:
    """Estimate sum_i w_i mean_i and its two-sided interval.

    Args:
        level: confidence level, in (0, 1).
        method: `t` (needs two seeds in each row), or `bootstrap` (percentiles of resampled seeds, with a fixed random
            seed; needs MIN_BOOTSTRAP seeds in each row). With fewer seeds there are no bounds.
    """
    estimate = math.fsum(sample.weight * mean(sample.values) for sample in samples)
    counts = [len(sample.values) for sample in samples]
    if min(counts) < (MIN_BOOTSTRAP if method == "bootstrap" else 2):
        return Interval(estimate, level=level)
    shares = [sample.weight**2 * variance(sample.values) / len(sample.values) for sample in samples]
    error = math.sqrt(math.fsum(shares))
    if not error:  # identical values say nothing about the spread over seeds
        return Interval(estimate, level=level)
    if method == "bootstrap":
        return _bootstrap(samples, estimate, level)
    half = error * t_quantile((1 + level) / 2, _freedom(shares, counts))
    return Interval(estimate, estimate - half, estimate + half, level)


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95% t interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    return stdev(values) / math.sqrt(len(values)) * t_quantile((1 + LEVEL) / 2, len(values) - 1)


def effect_size(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Hedges' g of first against second: mean difference in pooled standard deviations, corrected for few seeds.

    None if either has fewer than two values, or the pooled deviation is 0.
    """
    freedom = len(first) + len(second) - 2
    if min(len(first), len(second)) < 2:
        return None
    pooled = math.sqrt(((len(first) - 1) * variance(first) + (len(second) - 1) * variance(second)) / freedom)
    return (mean(first) - mean(second)) / pooled * (1 - 3 / (4 * freedom - 1)) if pooled else None


def effect_of_one(values: Sequence[float], against: float = 0.0) -> float | None:
    """Hedges' g of values against a fixed number; None for fewer than two values or no spread."""
    if len(values) < 2 or not stdev(values):
        return None
    return (mean(values) - against) / stdev(values) * (1 - 3 / (4 * (len(values) - 1) - 1))


def seeds_to_decide(samples: Sequence[Sample], distance: float, level: float = LEVEL) -> int | None:
    """Seeds per row at which an interval would exclude a number `distance` away from the estimate, with 80% power.

    Assumes that means and variances stay as they are now. None if they are unknown (a row with one seed), if
    `distance` is 0, or if more than MAX_SEEDS are needed.
    """
    if min(len(sample.values) for sample in samples) < 2 or not distance:
        return None
    shares = [sample.weight**2 * variance(sample.values) for sample in samples]
    spread = math.sqrt(math.fsum(shares))
    for count in range(2, MAX_SEEDS + 1):
        freedom = _freedom([share / count for share in shares], [count] * len(shares)) if spread else 1.0
        needed = t_quantile((1 + level) / 2, freedom) + t_quantile(POWER, freedom)
        if needed * spread / math.sqrt(count) < abs(distance):
            return count
    return None


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b; None for fewer than three pairs, or if all values of one side are equal."""
    if len(first) < 3:
        return None
    from scipy.stats import kendalltau

    tau = float(kendalltau(first, second).statistic)
    return None if math.isnan(tau) else tau


def t_quantile(share: float, freedom: float) -> float:
    """The quantile `share` of Student's t distribution with `freedom` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _freedom(shares: Sequence[float], counts: Sequence[int]) -> float:
    """Satterthwaite's degrees of freedom for a sum of variances of means; 1 if all are 0."""
    below = math.fsum(share**2 / (count - 1) for share, count in zip(shares, counts, strict=True) if share)
    return math.fsum(shares) ** 2 / below if below else 1.0


def _bootstrap(samples: Sequence[Sample], estimate: float, level: float) -> Interval:
    import numpy as np

    draws, total = np.random.default_rng(0), np.zeros(BOOTSTRAP)
    for sample in samples:
        values = np.asarray(sample.values, dtype=np.float64)
        total += sample.weight * draws.choice(values, (BOOTSTRAP, len(values))).mean(1)
    low, high = np.quantile(total, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)
