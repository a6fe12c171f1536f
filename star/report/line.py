"""A line through differences that were measured seed by seed along an axis, and where it would be zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from star.report.stats import LEVEL, Estimate, Interval, t_quantile

REACH = 8.0
"""How many times beyond the measured values a crossing is told; on an axis that is not logarithmic, one range beyond."""


@dataclass(frozen=True)
class Line:
    """A line through differences of single seeds, each seed with a height of its own; `u` is log2(x) on a logarithmic axis, else x.

    A seed's differences go together: its runs share initial weights, and where the axis changes nothing of the compared row
    they share that row's only run. So the slope's error is of what is left within the seeds, the height's of the seeds' means.
    """

    logarithmic: bool
    slope: Estimate
    """Per unit of u."""
    height: Estimate
    """The line at `center`."""
    center: float
    """Mean of u."""
    misfit: float | None
    """p of the hypothesis that the points lie on a line, beside what is left within the seeds; None if that cannot be told."""
    ends: tuple[float, float]
    """Smallest and largest x."""

    def at(self, x: float) -> Interval:
        """The line at x with its 95% interval."""
        return self._at(self._u(x))

    def _at(self, u: float) -> Interval:
        """Height and slope are independent; their quantiles are weighted by their variances (Cochran and Cox).

        Satterthwaite's degrees of freedom would hold the truth in 92% only: a height of three seeds has two.
        """
        off = u - self.center
        assert self.slope.error and self.height.error
        shares = self.height.error**2, (self.slope.error * off) ** 2
        quantiles = (t_quantile((1 + LEVEL) / 2, part.freedom) for part in (self.height, self.slope))
        half = math.fsum(share * t for share, t in zip(shares, quantiles, strict=True)) / math.sqrt(sum(shares))
        value = self.height.value + self.slope.value * off
        return Interval(value, value - half, value + half)

    def rise(self) -> Interval:
        """The line's change from the smallest to the largest value."""
        width = self._u(self.ends[1]) - self._u(self.ends[0])
        error = self.slope.error * width if self.slope.error else None
        return Estimate(self.slope.value * width, error, self.slope.freedom).interval()

    def crossing(self) -> Interval | None:
        """The x at which the line is zero, with all x at which its 95% band holds zero; None if the slope may be 0.

        A bound that lies further beyond the measured values than REACH is None.
        """
        if (self.slope.p() or 0.0) > 1 - LEVEL:
            return None
        zero = self.center - self.height.value / self.slope.value
        low, high = self._end(zero, -1.0), self._end(zero, 1.0)
        return Interval(self._x(zero), None if low is None else self._x(low), None if high is None else self._x(high))

    def _end(self, zero: float, way: float) -> float | None:
        """Where the band stops to hold zero, from the line's zero on; None if it does so out of reach."""
        edge = self._reach()[way > 0]
        if way * (edge - zero) <= 0 or self._holds_zero(edge):
            return None
        inside, outside = zero, edge
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if self._holds_zero(middle) else (inside, middle)
        return inside

    def _holds_zero(self, u: float) -> bool:
        found = self._at(u)
        return found.low is not None and found.high is not None and found.low <= 0 <= found.high

    def _reach(self) -> tuple[float, float]:
        first, last = map(self._u, self.ends)
        room = math.log2(REACH) if self.logarithmic else last - first
        return first - room, last + room

    def is_measured(self, x: float) -> bool:
        """Whether x lies within the values that were measured."""
        return self.ends[0] * (1 - 1e-9) <= x <= self.ends[1] * (1 + 1e-9)

    def is_near(self, x: float) -> bool:
        """Whether x is not far beyond the values that were measured."""
        low, high = self._reach()
        return not (self.logarithmic and x <= 0) and low <= self._u(x) <= high

    def _u(self, x: float) -> float:
        return math.log2(x) if self.logarithmic else x

    def _x(self, u: float) -> float:
        return 2 ** min(u, 1000.0) if self.logarithmic else u


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis suits: counts of which the largest is four times the smallest, other numbers from twenty times."""
    least = 4 if all(value == int(value) for value in values) else 20
    return bool(values) and min(values) > 0 and max(values) >= least * min(values)


def fit(points: Mapping[float, Mapping[int, float]], logarithmic: bool) -> Line | None:
    """The line through the values, x -> seed -> value; None for fewer than three x or two seeds, or values without a spread."""
    known = {x: values for x, values in points.items() if values}
    us = [math.log2(x) if logarithmic else x for x in known]
    flat = [(u, seed, value) for u, values in zip(us, known.values(), strict=True) for seed, value in values.items()]
    seeds = sorted({seed for _, seed, _ in flat})
    if len({u for u, _, _ in flat}) < 3 or len(seeds) < 2:
        return None
    import numpy as np

    u, value = np.array([one[0] for one in flat]), np.array([one[2] for one in flat])
    of_seed = np.array([[seed == one for one in seeds] for _, seed, _ in flat], dtype=float)
    at_point = np.array([[x == one for one in sorted(set(us))[1:]] for x, _, _ in flat], dtype=float)
    center = float(u.mean())
    own = u - of_seed @ (of_seed.T @ u / of_seed.sum(0))  # within the seeds
    square, freedom = float(own @ own), len(flat) - len(seeds) - 1
    fitted, left, _ = _least_squares(np.column_stack([of_seed, u - center]), value)
    if freedom < 1 or square <= 0 or left <= (1e-12 * max(1e-300, float(np.abs(value).max()))) ** 2 * len(flat):
        return None
    heights = [float(one) for one in fitted[:-1]]
    if not stdev(heights):
        return None
    return Line(
        logarithmic,
        Estimate(float(fitted[-1]), math.sqrt(left / freedom / square), freedom),
        Estimate(fmean(heights), stdev(heights) / math.sqrt(len(seeds)), len(seeds) - 1),
        center,
        _misfit(left, *_least_squares(np.column_stack([of_seed, at_point]), value)[1:], bends=len(set(us)) - 2),
        (min(known), max(known)),
    )


def _least_squares(design: Any, value: Any) -> tuple[Any, float, int]:
    """Coefficients, sum of squared residuals, and degrees of freedom that are left."""
    import numpy as np

    fitted, _, rank, _ = np.linalg.lstsq(design, value, rcond=None)
    return fitted, float(np.square(value - design @ fitted).sum()), len(value) - int(rank)


def _misfit(line: float, points: float, freedom: int, bends: int) -> float | None:
    """p of the F test of lack of fit.

    Args:
        line: squares that a line leaves within the seeds.
        points: those that a mean of its own for each point leaves, with `freedom` degrees.
        bends: how many more coefficients the latter has.
    """
    if freedom < 1 or bends < 1 or points <= 0:
        return None
    from scipy.special import fdtrc

    return float(fdtrc(bends, freedom, max(0.0, line - points) / bends / (points / freedom)))


def crossing_text(line: Line | None) -> str:
    """Where a trend is zero, in words."""
    if line is None:
        return ""
    found = line.crossing()
    if found is None:
        return "the slope may be 0"
    if not line.is_near(found.estimate):
        return "far outside"
    low = "" if found.low is None else number_text(found.low)
    high = "" if found.high is None else number_text(found.high)
    told = f"{low or 'far below'}, {high or 'far above'}"
    text = f"{number_text(found.estimate)} [{told}]"
    return text if line.is_measured(found.estimate) else f"{text}, not measured there"


def number_text(x: float) -> str:
    """A value of an axis with three significant digits, never as a power of ten."""
    return f"{float(f'{x:.3g}'):,.0f}" if abs(x) >= 100 else f"{x:.3g}"
