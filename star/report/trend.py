"""How the difference between two rows changes along an axis: at each value, as a line, and where it would be zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from star.report.evidence import Evidence
from star.report.line import Line, fit, is_logarithmic
from star.report.method import judge_by
from star.report.stats import Interval, Sample
from star.spec.experiment import Variant
from star.spec.reporting import Column, TrendFigure


@dataclass(frozen=True)
class Point:
    """The difference at one value of the axis."""

    x: float
    found: Interval
    """Difference of the rows' means."""
    values: dict[int, float]
    """Seed -> difference, of the seeds that both rows have."""
    told: str = ""
    """What was used in place of the method that was asked for, and why; empty if nothing was."""


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
                    for x, mine, other in pairs(evidence.experiment.variants, axis, figure.row, than)
                    if (point := _point(evidence, column, x, mine, other)) is not None
                ]
                line = fit(
                    {point.x: point.values for point in points}, is_logarithmic(evidence.experiment.spec.axes[axis])
                )
                yield Trend(axis, column, figure.row, than, points, line)


def pairs(variants: Sequence[Variant], axis: str, row: str, than: str) -> list[tuple[float, Variant, Variant]]:
    """The values of an axis, at each a row and the one to compare it with; fewer than three if that is no trend.

    The other axes stay where the row has most values of this one; of a grid, at their first values. An axis that changes
    nothing of one of the two leaves that one as it is.
    """
    lines = [_line(variants, axis, label) for label in (row, than)]
    led = 0 if any(one.is_varied(axis) for one in lines[0]) else 1
    found = []
    for mine in sorted(lines[led], key=lambda variant: float(variant.value(axis))):
        label = (than, row)[led]
        like = [one for one in variants if one.runs and one.own_label == label and _same_point(mine, one)]
        if like:
            other = next((one for one in like if one in lines[1 - led]), like[0])
            found.append((float(mine.value(axis)), *((mine, other) if led == 0 else (other, mine))))
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


def _point(evidence: Evidence, column: Column, x: float, mine: Variant, other: Variant) -> Point | None:
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
    values = {s: (known[0][s] - known[1][s]) * column.scale for s in sorted(known[0].keys() & known[1].keys())}
    return Point(x, judge.interval().times(column.scale), values, judge.told)
