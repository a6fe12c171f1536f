"""Figures of a study: its trials in order, importances, the objective by parameter and by pairs, the Pareto front."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from star.report.figures import style
from star.report.study import StudyReport
from star.rundir import write_bytes
from star.spec.search import Parameter

PAIRS = 6
"""Most pairs of parameters that are drawn."""
LEVELS = 10
FEWEST = 8
"""Fewest complete trials for contours: with fewer, the values between them would be guesses."""


def write_all(report: StudyReport, folder: Path) -> None:
    """Draw all figures that have data into `folder`, as PNG and PDF, and enter the PNGs in `report.pictures`."""
    drawings: dict[str, Callable[[StudyReport], Any | None]] = {
        "history": history,
        "pareto": pareto,
        "importances": shares,
        "slices": slices,
        "contours": contours,
    }
    for name, draw in drawings.items():
        drawn = draw(report)
        if drawn is None:
            continue
        path = folder / f"{name}.png"
        write_bytes(path, style.as_png(drawn))
        write_bytes(path.with_suffix(".pdf"), style.as_pdf(drawn))
        style.close(drawn)
        report.pictures[name] = path


def history(report: StudyReport) -> Any | None:
    """Draw the first objective of each trial and the best so far; None without complete trials."""
    complete = _complete(report)
    if not complete:
        return None
    objective, scale = report.search.spec.objectives[0], report.search.spec.objectives[0].scale
    drawing, axes = style.new(1, 1, 2.6)
    axis, colours = axes[0, 0], style.colours(["complete", "ended early"])
    numbers, values = [t.number for t in complete], [scale * t.values[0] for t in complete]
    better = max if objective.direction == "maximize" else min
    axis.plot(
        numbers,
        list(accumulate(values, better)),
        drawstyle="steps-post",
        color="0.45",
        linewidth=1,
        label="best so far",
    )
    axis.plot(numbers, values, "o", color=colours["complete"], label="complete")
    early = [t for t in report.trials if t.state == TrialState.PRUNED and t.intermediate_values]
    if early:
        last = [scale * t.intermediate_values[max(t.intermediate_values)] for t in early]
        axis.plot(
            [t.number for t in early], last, "x", color=colours["ended early"], label="ended early, at its last step"
        )
    if complete[0].number == 0:
        axis.axhline(values[0], color=style.MARK, linestyle="--", linewidth=1, label="the default")
    axis.set_xlabel("trial")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel(_title(report, 0))
    style.legend_below(axis)
    return drawing


def shares(report: StudyReport) -> Any | None:
    """Draw the importance of each parameter with its standard deviation; None if there are none."""
    found = report.importances
    if not found:
        return None
    names = [
        name for name in report.search.spec.space if any(one.name == name for ones in found.values() for one in ones)
    ]
    drawing, axes = style.new(1, 1, 0.7 + 0.35 * len(names) * len(found))
    axis, colours = axes[0, 0], style.colours(list(found))
    thick = 0.8 / len(found)
    for i, (where, ones) in enumerate(found.items()):
        by_name = {one.name: one for one in ones}
        there = [(y, by_name[name]) for y, name in enumerate(names) if name in by_name]
        places = [y + (i - (len(found) - 1) / 2) * thick for y, _ in there]
        bars = {"xerr": [one.deviation for _, one in there], "capsize": 2}
        axis.barh(places, [one.mean for _, one in there], thick, color=colours[where], label=where, **bars)
    axis.set_yticks(range(len(names)), [_short(name) for name in names])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("share in the objective's variance")
    if len(found) > 1:
        style.legend_below(axis)
    return drawing


def slices(report: StudyReport) -> Any | None:
    """Draw the first objective by each parameter, with trials that ended early below; None without complete trials."""
    complete, names = _complete(report), list(report.search.spec.space)
    if not complete:
        return None
    scale = report.search.spec.objectives[0].scale
    drawing, axes = style.new(1, len(names), 2.2, min(style.WIDTH, 2.3 * len(names)), sharey=True)
    early = [trial for trial in report.trials if trial.state == TrialState.PRUNED]
    for axis, name in zip(axes[0], names, strict=True):
        parameter = report.search.spec.space[name]
        place = partial(_place, parameter=parameter)
        if any(isinstance(place(one), str) for one in parameter.choices or []):  # in the order of the file
            axis.xaxis.update_units([place(one) for one in parameter.choices])
        there = [t for t in complete if name in t.params]
        values = [scale * t.values[0] for t in there]
        axis.plot([place(t.params[name]) for t in there], values, "o", markersize=4, label="complete")
        gone = [place(t.params[name]) for t in early if name in t.params]
        if gone:  # an empty plot without clipping has no extent, which breaks the layout of the others
            below = {"transform": axis.get_xaxis_transform(), "clip_on": False}
            axis.plot(gone, [-0.03] * len(gone), "x", color="0.5", label="ended early", **below)
        if complete[0].number == 0 and name in complete[0].params:
            value = scale * complete[0].values[0]
            axis.plot(place(complete[0].params[name]), value, "D", color=style.MARK, markersize=5, label="the default")
        axis.set_xlabel(_short(name))
        if parameter.log:
            style.logarithmic(axis.xaxis)
    axes[0, 0].set_ylabel(_title(report, 0))
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return drawing


def contours(report: StudyReport) -> Any | None:
    """Draw contours of the first objective by pairs of numeric parameters; None without pairs or FEWEST trials."""
    space = report.search.spec.space
    names = [name for name, parameter in space.items() if not parameter.choices]
    complete = [t for t in _complete(report) if all(name in t.params for name in names)]
    pairs = list(combinations(names, 2))[:PAIRS]
    if not pairs or len(complete) < FEWEST:
        return None
    columns = min(3, len(pairs))
    drawing, axes = style.new(-(-len(pairs) // columns), columns, 2.3 * -(-len(pairs) // columns))
    scale = report.search.spec.objectives[0].scale
    values, filled = [scale * t.values[0] for t in complete], None
    for axis, (x, y) in zip(axes.flat, pairs, strict=False):
        across, up = ([float(t.params[name]) for t in complete] for name in (x, y))
        with suppress(RuntimeError):  # points on a line span no area
            filled = axis.tricontourf(across, up, values, levels=LEVELS, cmap="cividis")
        axis.plot(across, up, "o", color="black", markersize=2.5, clip_on=False)
        if complete[0].number == 0:
            axis.plot(across[0], up[0], "D", color=style.MARK, markersize=5, clip_on=False)
        axis.set_xlabel(_short(x))
        axis.set_ylabel(_short(y))
        for side, name in ((axis.xaxis, x), (axis.yaxis, y)):
            if space[name].log:
                style.logarithmic(side)
        axis.set_xlim(space[x].low, space[x].high)
        axis.set_ylim(space[y].low, space[y].high)
    for axis in list(axes.flat)[len(pairs) :]:
        axis.set_axis_off()
    if filled is not None:
        drawing.colorbar(filled, ax=axes, label=_title(report, 0))
    return drawing


def pareto(report: StudyReport) -> Any | None:
    """Draw the first two objectives against each other, with the Pareto front; None for one objective or no trials."""
    complete, spec = _complete(report), report.search.spec
    if len(spec.objectives) < 2 or not complete:
        return None
    drawing, axes = style.new(1, 1, 3.0, 4.5)
    axis, colours = axes[0, 0], style.colours(["front", "others"])
    front = {trial.number for trial in report.study.optuna.best_trials}
    points = {t.number: [v * o.scale for v, o in zip(t.values, spec.objectives, strict=True)] for t in complete}
    others = [point for number, point in points.items() if number not in front]
    best = sorted(point for number, point in points.items() if number in front)
    if others:
        axis.plot(*_columns(others), "o", color=colours["others"], markersize=4, label="beaten in both")
    axis.plot(*_columns(best), "s-", color=colours["front"], linewidth=1, label="Pareto front")
    if 0 in points:
        axis.plot(*points[0][:2], "D", color=style.MARK, label="the default")
    axis.set_xlabel(_title(report, 0))
    axis.set_ylabel(_title(report, 1))
    style.legend_below(axis)
    return drawing


def _columns(points: list[list[float]]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]


def _complete(report: StudyReport) -> list[FrozenTrial]:
    return report.study.complete()


def _title(report: StudyReport, index: int) -> str:
    objective = report.search.spec.objectives[index]
    return objective.title or objective.metric


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("_", " ")


def _place(value: Any, parameter: Parameter) -> Any:
    """Where a value stands on its axis: a number at itself, one of choices that are not all numbers at its text."""
    return str(value) if parameter.choices and not all(map(_is_number, parameter.choices)) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
