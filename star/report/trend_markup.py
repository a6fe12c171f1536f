"""Trends as tables: for each axis the difference at every value, the line's rise, and where it would be zero."""

from __future__ import annotations

from itertools import groupby

from star.report.evidence import Evidence
from star.report.grid import Grid, Head, Line, Mark, interval_text
from star.report.method import NAMES
from star.report.trend import Trend, axis_title, crossing_text, trends
from star.spec.reporting import TrendFigure


def trend_grids(figure: TrendFigure, evidence: Evidence) -> list[Grid]:
    """A grid for each axis, a line for each column and compared row; empty while nothing is measured."""
    found = groupby(trends(figure, evidence), key=lambda one: one.axis)
    grids = [_grid(list(group), evidence) for _, group in found]
    return [grid for grid in grids if grid.lines]


def _grid(group: list[Trend], evidence: Evidence) -> Grid:
    values = sorted({point.x for trend in group for point in trend.points})
    ends = f"{values[0]:g} to {values[-1]:g}" if values else ""
    heads = [Head(f"by {axis_title(group[0].axis, evidence)}", numeric=False), *(Head(f"{x:g}") for x in values)]
    heads += [Head(f"line, {ends}"), Head("line fits, p"), Head("0 at", numeric=False)]
    return Grid(heads, [_line(trend, values) for trend in group if trend.points])


def _line(trend: Trend, values: list[float]) -> Line:
    digits, line = trend.column.digits, trend.line
    at = {point.x: Mark(interval_text(point.found, digits)) for point in trend.points}
    rise = line.rise() if line else None
    told = rise is not None and rise.low is not None and rise.high is not None and rise.low * rise.high > 0
    return Line(
        [
            Mark(f"{trend.column.title}, {trend.name}"),
            *(at.get(x, Mark("")) for x in values),
            Mark(interval_text(rise, digits) if rise else "", bold=told),
            Mark("" if line is None or line.misfit is None else f"{line.misfit:.2f}"),
            Mark(crossing_text(line)),
        ]
    )


def trend_note(evidence: Evidence) -> str:
    """What the numbers of a trend's tables are."""
    method = NAMES[evidence.experiment.spec.interval]
    return (
        f"Differences of means over seeds, with 95% {method} intervals, each by itself. The line is fitted by least squares to the "
        "differences of single seeds, which count as independent; its change from the first to the last value is bold where the "
        "interval leaves out 0. `Line fits` is the p of the F test of lack of fit: where it is small, a line is not what the points "
        "say. `0 at` is where the line would be zero, with Fieller's interval."
    )
