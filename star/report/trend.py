"""How the difference between two rows changes along an axis: at each value, as a line, and where it would be zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from star.report.evidence import Evidence
from star.report.method import judge_by
from star.report.stats import LEVEL, Estimate, Interval, Sample, t_quantile
from star.spec.experiment import Variant, axis_name
from star.spec.reporting import Column, TrendFigure

REACH = 8.0
"""How far beyond the measured values a crossing is told: so many times, or as many ranges on an axis that is not logarithmic."""


@dataclass(frozen=True)
class Point:
    """The difference at one value of the axis."""

    x: float
    found: Interval
    """Difference of the rows' means."""
    values: tuple[float, ...]
    """Seed by seed, of the seeds that both rows have."""


@dataclass(frozen=True)
class Line:
    """The least-squares line through differences of single seeds; `u` is log2(x) on a logarithmic axis, else x."""

    logarithmic: bool
    slope: Estimate
    """Per unit of u."""
    center: float
    """Mean of u."""
    height: float
    """The line at `center`."""
    spread: float
    """Standard deviation of the residuals."""
    count: int
    misfit: float | None
    """p of the hypothesis that the points lie on a line, beside the seeds' own spread; None if that cannot be told."""
    ends: tuple[float, float]
    """Smallest and largest u."""

    def at(self, x: float) -> Interval:
        """The line at x with its 95% interval."""
        off = self._u(x) - self.center
        assert self.slope.error
        error = math.hypot(self.spread / math.sqrt(self.count), self.slope.error * off)
        return Estimate(self.height + self.slope.value * off, error, self.slope.freedom).interval()

    def rise(self) -> Interval:
        """The line's change from the smallest to the largest value."""
        width = self.ends[1] - self.ends[0]
        error = self.slope.error * width if self.slope.error else None
        return Estimate(self.slope.value * width, error, self.slope.freedom).interval()

    def crossing(self) -> Interval | None:
        """The x at which the line is zero, with its 95% interval after Fieller; None if the slope may be 0."""
        assert self.slope.error
        t = t_quantile((1 + LEVEL) / 2, self.slope.freedom)
        square = self.slope.value**2 - (t * self.slope.error) ** 2
        if square <= 0:
            return None
        rest = self.height**2 - (t * self.spread) ** 2 / self.count
        middle = -self.slope.value * self.height / square
        half = math.sqrt(max(0.0, middle**2 - rest / square))
        where = (-self.height / self.slope.value, middle - half, middle + half)
        return Interval(*(self._x(self.center + off) for off in where))

    def is_measured(self, x: float) -> bool:
        """Whether x lies within the values that were measured."""
        return self.ends[0] <= self._u(x) <= self.ends[1]

    def is_near(self, x: float) -> bool:
        """Whether x is not far beyond the values that were measured."""
        room = math.log2(REACH) if self.logarithmic else REACH * (self.ends[1] - self.ends[0])
        u = -math.inf if self.logarithmic and x <= 0 else self._u(x)
        return self.ends[0] - room <= u <= self.ends[1] + room

    def _u(self, x: float) -> float:
        return math.log2(x) if self.logarithmic else x

    def _x(self, u: float) -> float:
        return 2 ** min(u, 1000.0) if self.logarithmic else u


@dataclass(frozen=True)
class Trend:
    """A difference between two rows of the file along an axis."""

    axis: str
    """Dotted path."""
    column: Column
    row: str
    than: str
    points: list[Point]
    line: Line | None
    """None for fewer than three values, or differences without a spread."""

    @property
    def name(self) -> str:
        """What the difference is between."""
        return f"{self.row} - {self.than}"


def trends(figure: TrendFigure, evidence: Evidence) -> Iterator[Trend]:
    """The trends of a figure: axis by axis, column by column, compared row by compared row."""
    table = evidence.experiment.spec.table
    assert table is not None
    columns = [c for c in table.columns if c.metric and (not figure.columns or c.title in figure.columns)]
    for axis in figure.x:
        for column in columns:
            for than in figure.than:
                points = [
                    point
                    for mine, other in pairs(evidence.experiment.variants, axis, figure.row, than)
                    if (point := _point(evidence, column, axis, mine, other)) is not None
                ]
                line = fit(points, is_logarithmic([point.x for point in points]))
                yield Trend(axis, column, figure.row, than, points, line)


def pairs(variants: Sequence[Variant], axis: str, row: str, than: str) -> list[tuple[Variant, Variant]]:
    """A row at each value of an axis, with the row to compare it with at the same point.

    The other axes stay where the row has more than one value of this axis; of a grid, where it is first.
    """
    others = _line(variants, axis, than)
    found = []
    for mine in sorted(_line(variants, axis, row), key=lambda variant: float(variant.value(axis))):
        like = [one for one in variants if one.runs and one.own_label == than and _same_point(mine, one)]
        if like:
            found.append((mine, next((one for one in like if one in others), like[0])))
    return found


def _line(variants: Sequence[Variant], axis: str, label: str) -> list[Variant]:
    """A row at all values of an axis with the others at one point: where it has most values."""
    lines: dict[tuple[str, ...], list[Variant]] = {}
    for variant in (one for one in variants if one.runs and one.own_label == label):
        lines.setdefault(tuple(str(variant.value(a)) for a in variant.axes if a != axis), []).append(variant)
    return max(lines.values(), key=len, default=[])


def _same_point(mine: Variant, other: Variant) -> bool:
    """Whether two rows are at the same point of all axes that change something in both."""
    both = [axis for axis in mine.axes if mine.is_varied(axis) and other.is_varied(axis)]
    return all(mine.value(axis) == other.value(axis) for axis in both)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis suits: counts of which the largest is four times the smallest, other numbers from twenty times."""
    least = 4 if all(value == int(value) for value in values) else 20
    return bool(values) and min(values) > 0 and max(values) >= least * min(values)


def _point(evidence: Evidence, column: Column, axis: str, mine: Variant, other: Variant) -> Point | None:
    assert column.metric is not None
    both = [evidence.numbers(variant.label, column.metric) for variant in (mine, other)]
    if not all(one.values for one in both) or len(both[0].scorings | both[1].scorings) > 1:
        return None
    samples = [
        Sample(sign, one.values, one.seeds, variant.label)
        for sign, one, variant in zip((1.0, -1.0), both, (mine, other), strict=True)
    ]
    judge = judge_by(evidence.experiment.spec.interval, samples, evidence.block(mine.label, column.metric))
    known = [dict(zip(one.seeds, one.values, strict=True)) for one in both]
    values = tuple((known[0][s] - known[1][s]) * column.scale for s in sorted(known[0].keys() & known[1].keys()))
    return Point(float(mine.value(axis)), judge.interval().times(column.scale), values)


def fit(points: Sequence[Point], logarithmic: bool) -> Line | None:
    """The line through all values of the points; None for fewer than three points, or values without a spread."""
    known = [(math.log2(point.x) if logarithmic else point.x, point.values) for point in points if point.values]
    if len({u for u, _ in known}) < 3:
        return None
    flat = [(u, value) for u, values in known for value in values]
    center, height = fmean(u for u, _ in flat), fmean(value for _, value in flat)
    square = math.fsum((u - center) ** 2 for u, _ in flat)
    slope = math.fsum((u - center) * value for u, value in flat) / square
    residual = math.fsum((value - height - slope * (u - center)) ** 2 for u, value in flat)
    freedom = len(flat) - 2
    spread = math.sqrt(residual / freedom)
    if spread <= 1e-12 * max(abs(value) for _, value in flat):
        return None
    return Line(
        logarithmic,
        Estimate(slope, spread / math.sqrt(square), freedom),
        center,
        height,
        spread,
        len(flat),
        _misfit([values for _, values in known], residual),
        (min(u for u, _ in known), max(u for u, _ in known)),
    )


def _misfit(groups: Sequence[Sequence[float]], residual: float) -> float | None:
    """p of the F test of lack of fit: what is left beside a line, against the spread within each value of the axis."""
    within = math.fsum((value - fmean(values)) ** 2 for values in groups for value in values)
    freedom = (len(groups) - 2, sum(map(len, groups)) - len(groups))
    if min(freedom) < 1 or within <= 0:
        return None
    from scipy.special import fdtrc

    return float(fdtrc(*freedom, max(0.0, residual - within) / freedom[0] / (within / freedom[1])))


def crossing_text(line: Line | None) -> str:
    """Where a trend is zero, in words."""
    if line is None:
        return ""
    found = line.crossing()
    if found is None:
        return "the slope may be 0"
    if not line.is_near(found.estimate):
        return "far outside"
    text = f"{found.estimate:.3g} [{found.low:.3g}, {found.high:.3g}]"
    return text if line.is_measured(found.estimate) else f"{text}, not measured there"


def axis_title(axis: str, evidence: Evidence) -> str:
    """Name of an axis in figures and tables: the title of the column that shows it, or the field's own name."""
    table = evidence.experiment.spec.table
    titled = next((column.title for column in table.columns if column.spec == axis), None) if table else None
    return titled or axis_name(axis, evidence.experiment.spec.axes).replace("_", " ")
