"""Statistics over seeds: intervals of weighted sums of row means, effect sizes, and how many seeds would decide.

A contrast is sum_i w_i mean_i over rows. `welch` lets each row have its own variance (Satterthwaite's degrees of freedom),
`paired` takes the sum seed by seed, `star.report.block` one spread of all rows.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star.report.block import Block

LEVEL = 0.95
POWER = 0.8
MAX_SEEDS = 1000
BOOTSTRAP = 10_000
MIN_BOOTSTRAP = 5
"""Fewest seeds per row for the bootstrap: resampling fewer gives intervals that are far too short."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided bounds at confidence `level`, in (0, 1).

    Without bounds where seeds are too few, or have no spread, to tell them; the functions that make it say when.
    """

    estimate: float
    low: float | None = None
    high: float | None = None
    level: float = LEVEL

    def times(self, factor: float) -> Interval:
        """The interval in another unit, `factor` times as fine; below 0, as older versions allowed, its ends change places."""
        ends = (self.low, self.high) if factor > 0 else (self.high, self.low)
        low, high = (None if end is None else end * factor for end in ends)
        return Interval(self.estimate * factor, low, high, self.level)


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error: `(estimate - truth) / error` follows Student's t with `freedom` degrees."""

    value: float
    error: float | None = None
    """None if too few seeds, or seeds that all agree, do not tell."""
    freedom: float = 1.0

    def interval(self, level: float = LEVEL) -> Interval:
        """The two-sided interval at a confidence level in (0, 1)."""
        if not self.error:
            return Interval(self.value, level=level)
        half = self.error * t_quantile((1 + level) / 2, self.freedom)
        return Interval(self.value, self.value - half, self.value + half, level)

    def p(self) -> float | None:
        """Two-sided p of the hypothesis that the truth is 0; None without an error."""
        if not self.error:
            return None
        from scipy.special import stdtr

        return 2 * float(stdtr(self.freedom, -abs(self.value) / self.error))


@dataclass(frozen=True)
class Sample:
    """One row's values, one per seed, and its weight in a contrast."""

    weight: float
    values: Sequence[float]
    seeds: Sequence[int] = ()
    """Which seed each value is of; needed where values of one seed are paired."""
    row: str = ""
    """The row's label; needed for the block model."""


def welch(samples: Sequence[Sample]) -> Estimate:
    """Estimate sum_i w_i mean_i with a spread of its own for each row; without error if a row has one seed, or no row a spread."""
    estimate = math.fsum(sample.weight * mean(sample.values) for sample in samples)
    counts = [len(sample.values) for sample in samples]
    if min(counts) < 2:
        return Estimate(estimate)
    shares = [sample.weight**2 * variance(sample.values) / len(sample.values) for sample in samples]
    error = math.sqrt(math.fsum(shares))
    return Estimate(estimate, error or None, _freedom(shares, counts))  # identical values say nothing about the spread


def paired(samples: Sequence[Sample]) -> Estimate:
    """Estimate sum_i w_i mean_i from the seeds that all rows have, one sum per seed; without error if that is one.

    Raises:
        ValueError: no seed is common to all rows.
    """
    sums = _by_seed(samples)
    if not sums:
        raise ValueError("no seed is common to all rows")
    error = stdev(sums) / math.sqrt(len(sums)) if len(sums) > 1 else 0.0
    told = error > 1e-12 * max(abs(value) for sample in samples for value in sample.values)
    return Estimate(mean(sums), error if told else None, max(1, len(sums) - 1))


def _by_seed(samples: Sequence[Sample]) -> list[float]:
    """sum_i w_i value_i for each seed that all rows have."""
    known = [dict(zip(sample.seeds, sample.values, strict=True)) for sample in samples]
    common = sorted(set.intersection(*(set(one) for one in known)))
    return [math.fsum(s.weight * one[seed] for s, one in zip(samples, known, strict=True)) for seed in common]


def contrast(samples: Sequence[Sample], level: float = LEVEL) -> Interval:
    """Estimate sum_i w_i mean_i and its two-sided interval after Welch; without bounds if a row has one seed."""
    return welch(samples).interval(level)


def bootstrap(samples: Sequence[Sample], level: float = LEVEL) -> Interval:
    """Estimate sum_i w_i mean_i with percentiles of resampled seeds (fixed random seed).

    Without bounds if a row has fewer than MIN_BOOTSTRAP seeds, or no row a spread.
    """
    import numpy as np

    estimate, drawn = welch(samples).value, _resampled(samples)
    if drawn is None:
        return Interval(estimate, level=level)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)


def bootstrap_p(samples: Sequence[Sample]) -> float | None:
    """Two-sided p of the hypothesis that sum_i w_i mean_i is 0, by the same resampled seeds; None where there are no bounds."""
    drawn = _resampled(samples)
    if drawn is None:
        return None
    return min(1.0, 2 * float(1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + BOOTSTRAP))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for all of them together after Holm; None stays None and counts as no comparison."""
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    worst = 0.0
    for rank, (p, i) in enumerate(order):
        worst = max(worst, min(1.0, p * (len(order) - rank)))
        adjusted[i] = worst
    return adjusted


def superiority(first: Sequence[float], second: Sequence[float]) -> float | None:
    """P(first > second): the share of all pairs of seeds in which the first is larger, ties counted half; None if empty."""
    if not first or not second:
        return None
    return mean([(a > b) + 0.5 * (a == b) for a in first for b in second])


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


def effect_of_one(values: Sequence[float]) -> float | None:
    """Hedges' g of values against 0; None for fewer than two values or no spread."""
    if len(values) < 2 or not stdev(values):
        return None
    return mean(values) / stdev(values) * (1 - 3 / (4 * (len(values) - 1) - 1))


def seeds_to_decide(
    samples: Sequence[Sample], distance: float, level: float = LEVEL, method: str = "welch", block: Block | None = None
) -> int | None:
    """Seeds per row at which an interval would exclude a number `distance` away from the estimate, with 80% power.

    Assumes that means and variances stay as they are now. None if they are unknown (a row with one seed), if
    `distance` is 0, or if more than MAX_SEEDS are needed.

    Args:
        method: `welch`, `paired`, or `block`, which needs `block`.
    """
    if min(len(sample.values) for sample in samples) < 2 or not distance:
        return None
    shares = [sample.weight**2 * variance(sample.values) for sample in samples]
    rows = 2
    if method == "paired":
        sums = _by_seed(samples)
        shares = [variance(sums)] if len(sums) > 1 else []
    elif method == "block":
        assert block is not None
        rows = len(block.values)
        shares = [math.fsum(sample.weight**2 for sample in samples) * block.spread**2]
    if not shares:
        return None
    spread = math.sqrt(math.fsum(shares))

    def enough(count: int) -> bool:
        if method == "block":
            freedom = float((rows - 1) * (count - 1))
        else:
            freedom = _freedom([share / count for share in shares], [count] * len(shares)) if spread else 1.0
        needed = t_quantile((1 + level) / 2, freedom) + t_quantile(POWER, freedom)
        return needed * spread / math.sqrt(count) < abs(distance)

    counts = range(2, MAX_SEEDS + 1)
    found = bisect_left(counts, True, key=enough)  # what is enough stays enough with more
    return counts[found] if found < len(counts) else None


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


def _resampled(samples: Sequence[Sample]) -> Any | None:
    """sum_i w_i mean_i of BOOTSTRAP tables drawn from these; None if a row has too few seeds for that, or no row a spread."""
    import numpy as np

    if min(len(sample.values) for sample in samples) < MIN_BOOTSTRAP or not welch(samples).error:
        return None
    draws, total = np.random.default_rng(0), np.zeros(BOOTSTRAP)
    for sample in samples:
        values = np.asarray(sample.values, dtype=np.float64)
        total += sample.weight * draws.choice(values, (BOOTSTRAP, len(values))).mean(1)
    return total
