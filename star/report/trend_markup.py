"""Trends as tables: for each axis the difference at every value, the line's rise, and where it would be zero."""

from __future__ import annotations

import csv
import io
from itertools import groupby

from star.report.evidence import Evidence
from star.report.grid import Grid, Head, Line, Mark, field_name, interval_text
from star.report.line import crossing_text
from star.report.method import NAMES
from star.report.trend import Trend, trends
from star.spec.reporting import TrendFigure


def trend_grids(figure: TrendFigure, evidence: Evidence) -> list[Grid]:
    """A grid for each axis, a line for each column and compared row; empty while nothing is measured."""
    found = groupby(trends(figure, evidence), key=lambda one: one.axis)
    grids = [_grid(list(group), evidence) for _, group in found]
    return [grid for grid in grids if grid.lines]


def _grid(group: list[Trend], evidence: Evidence) -> Grid:
    values = sorted({point.x for trend in group for point in trend.points})
    assert evidence.experiment.spec.table is not None
    columns = evidence.experiment.spec.table.columns
    heads = [
        Head(f"by {field_name(columns, group[0].axis)}", numeric=False),
        *(Head(f"{x:g}") for x in values),
    ]
    heads += [Head("line, first to last"), Head("line fits, p"), Head("0 at", numeric=False)]
    return Grid(heads, [_line(trend, values) for trend in group if trend.points])


def _line(trend: Trend, values: list[float]) -> Line:
    digits, line = trend.column.digits, trend.line
    at = {point.x: Mark(interval_text(point.found, digits)) for point in trend.points}
    rise = line.rise() if line else None
    told = rise is not None and rise.low is not None and rise.high is not None and rise.low * rise.high > 0
    part = "" if line is None or line.ends == (values[0], values[-1]) else f", {line.ends[0]:g} to {line.ends[1]:g}"
    return Line(
        [
            Mark(f"{trend.column.title}, {trend.name}"),
            *(at.get(x, Mark("")) for x in values),
            Mark(interval_text(rise, digits) if rise else "", bold=told, after=part),
            Mark("" if line is None or line.misfit is None else _p(line.misfit)),
            Mark(crossing_text(line)),
        ]
    )


def _p(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"{value:.2f}"


def trend_notes(figure: TrendFigure, evidence: Evidence) -> list[str]:
    """What the numbers of a trend's tables are, and where another method was used; empty while nothing is measured."""
    found = list(trends(figure, evidence))
    if not any(trend.points for trend in found):
        return []
    others = dict.fromkeys(point.told for trend in found for point in trend.points if point.told)
    method = NAMES[evidence.experiment.spec.interval]
    return [
        f"Differences of means over seeds, with 95% {method} intervals, each by itself. The line is fitted by least squares to the "
        "differences of single seeds, each seed at a height of its own; its change from the first to the last value is bold where "
        "the interval leaves out 0. “Line fits” is the p of an F test: where it is small, a line is not what the points say. “0 at” "
        "is where the line would be zero, with all values at which its 95% band holds zero.",
        *(f"Some differences: {one}." for one in others),
    ]


def comma_separated(evidence: Evidence) -> str:
    """All differences of trends as CSV, one line for each axis, column, compared row and value: as printed, unrounded."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["axis", "column", "row", "than", "x", "difference", "low", "high", "n"])
    for figure in (one for one in evidence.experiment.spec.figures if isinstance(one, TrendFigure)):
        for trend in trends(figure, evidence):
            for point in trend.points:
                found = point.found
                values = [f"{point.x:g}", found.estimate, found.low, found.high, len(point.values)]
                writer.writerow([trend.axis, trend.column.title, trend.row, trend.than, *values])
    return buffer.getvalue()
