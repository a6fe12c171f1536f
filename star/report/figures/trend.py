"""Differences between rows along axes: a panel for each axis and column, with intervals and lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from star.report.evidence import Evidence
from star.report.figures import style
from star.report.grid import field_name
from star.report.line import is_logarithmic
from star.report.markup import ARROWS
from star.report.trend import Trend, trends
from star.spec.reporting import TrendFigure


def draw_trend(figure: TrendFigure, evidence: Evidence) -> Any | None:
    """Draw differences with 95% intervals, each seed as a dash, and lines with their bands; None while nothing is measured."""
    found = list(trends(figure, evidence))
    if not any(trend.points for trend in found):
        return None
    assert evidence.experiment.spec.table is not None
    columns = list(dict.fromkeys(trend.column.title for trend in found))
    names = list(dict.fromkeys(trend.name for trend in found))
    width = max(min(style.WIDTH, 1.0 + 2.2 * len(figure.x)), style.legend_width(names))
    legend = style.legend_columns(names, width)
    height = 0.5 + 1.6 * len(columns) + style.legend_height(names, legend) - style.legend_height(names[:1], legend)
    drawing, axes = style.new(len(columns), len(figure.x), height, width, sharey="row", sharex="col")
    colours, markers = style.colours(names), style.markers(names)
    for trend in found:
        axis = axes[columns.index(trend.column.title), figure.x.index(trend.axis)]
        shown = style.shown(trend.name)
        looks = {"color": colours[shown], "marker": markers[shown]}
        _draw(trend, axis, sorted(evidence.experiment.spec.axes[trend.axis]), names.index(trend.name), looks, shown)
    for i, title in enumerate(columns):
        column = next(trend.column for trend in found if trend.column.title == title)
        axes[i, 0].set_ylabel(f"{title}{ARROWS[column.better]},\ndifference")
    for j, path in enumerate(figure.x):
        axes[-1, j].set_xlabel(field_name(evidence.experiment.spec.table.columns, path))
        for axis in axes[:, j]:
            axis.axhline(0, color="0.3", linewidth=0.8, zorder=0)
        ticks = sorted(evidence.experiment.spec.axes[path])
        if is_logarithmic(ticks):
            axes[-1, j].set_xscale("log")
        style.set_ticks(axes[-1, j], ticks, [_short(x) for x in ticks], (width - 1.0) / len(figure.x))
        axes[-1, j].minorticks_off()
    told = [axis.get_legend_handles_labels() for axis in axes.flat]
    entries = {name: handle for handles, labels in told for handle, name in zip(handles, labels, strict=True)}
    drawing.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=legend)
    counts = [len(point.values) for trend in found for point in trend.points if point.values]
    if counts:
        axes[0, 0].set_title(f"{evidence.experiment.profile}, {style.counted(counts)}", loc="left")
    return drawing


def _draw(trend: Trend, axis: Any, ticks: list[float], number: int, looks: dict[str, Any], name: str) -> None:
    points, logarithmic = trend.points, is_logarithmic(ticks)
    if not points:
        return
    where = [_beside(point.x, number, ticks[0], ticks[-1], logarithmic) for point in points]
    heights = [point.found.estimate for point in points]
    below = [0.0 if p.found.low is None else p.found.estimate - p.found.low for p in points]
    above = [0.0 if p.found.high is None else p.found.high - p.found.estimate for p in points]
    axis.errorbar(where, heights, yerr=[below, above], linestyle="", capsize=2, label=name, markersize=4, **looks)
    for x, point in zip(where, points, strict=True):
        axis.plot(
            [x] * len(point.values),
            list(point.values.values()),
            linestyle="",
            marker="_",
            color=looks["color"],
            markersize=6,
        )
    if trend.line is not None:
        reach = (np.geomspace if logarithmic else np.linspace)(*trend.line.ends, 60)
        band = [trend.line.at(x) for x in reach]
        axis.plot(reach, [one.estimate for one in band], color=looks["color"], linewidth=1.0)
        axis.fill_between(
            reach, [one.low for one in band], [one.high for one in band], color=looks["color"], alpha=0.15, linewidth=0
        )


def _beside(x: float, number: int, first: float, last: float, logarithmic: bool) -> float:
    """x, moved a little to the right for every trend but the first, so that intervals do not hide each other."""
    return x * (last / first) ** (0.03 * number) if logarithmic else x + 0.03 * number * (last - first)


def _short(x: float) -> str:
    return f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"
