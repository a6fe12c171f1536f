"""A metric by step: a line per row, a band over its seeds, and published curves in a second panel."""

from __future__ import annotations

from typing import Any

import pandas
import seaborn

from star.report.curves import step_name
from star.report.evidence import Evidence
from star.report.figures import style
from star.report.published import published_of
from star.spec.reporting import CurvesFigure

MANY = 20
"""Most steps for which points have markers."""
YLABEL = 0.6
"""Width in inches of what is left of a panel."""


def draw_curves(figure: CurvesFigure, evidence: Evidence) -> Any | None:
    """Draw each row's mean and standard deviation over seeds by step; None while nothing is tracked."""
    labels = evidence.shown_rows(figure)
    curves = {label: evidence.curve(label, figure.metric, unfinished=True) for label in labels}
    ended = {label: evidence.curve(label, figure.metric) for label in labels}
    points = [
        {"row": style.shown(label), "seed": seed, "step": step, "value": value * figure.scale}
        for label, seeds in curves.items()
        for seed, points in seeds.items()
        for step, value in points.items()
    ]
    if not points:
        return None
    frame = pandas.DataFrame(points)
    drawn = [label for label in labels if curves[label]]
    order = [style.shown(label) for label in drawn]
    panels = 2 if figure.published else 1
    width = style.WIDTH if figure.published else max(4.2, style.legend_width(drawn))
    legend = style.legend_columns(drawn, width / panels)
    drawing, axes = style.new(1, panels, 2.4 + style.legend_height(labels, legend), width)
    few = frame["step"].nunique() <= MANY
    seaborn.lineplot(
        frame,
        x="step",
        y="value",
        hue="row",
        style="row",
        hue_order=order,
        palette=style.colours(labels),
        markers=style.markers(labels) if few else False,
        dashes=style.dashes(labels),
        errorbar="sd",
        ax=axes[0, 0],
    )
    counts = [len(curves[label]) for label in drawn]
    title = f"{evidence.experiment.profile}, {style.counted(counts)}" + (
        ", band: standard deviation" if max(counts) > 1 else ""
    )
    if any(len(ended[label]) < len(curves[label]) for label in drawn):
        title += ", unfinished"
    axes[0, 0].set(xlabel=step_name(figure.metric, evidence), ylabel=figure.title, title=title)
    axes[0, 0].ticklabel_format(axis="x", style="plain", useOffset=False)
    if few:
        steps = sorted(frame["step"].unique())
        style.set_ticks(axes[0, 0], steps, [f"{step:.9g}" for step in steps], width / panels - YLABEL)
    style.legend_below(axes[0, 0], legend)
    if figure.published:
        _published(figure, evidence, labels, axes[0, 1])
    return drawing


def _published(figure: CurvesFigure, evidence: Evidence, labels: list[str], axis: Any) -> None:
    assert figure.published is not None
    given = published_of(evidence.experiment)
    curves = given.curves[figure.published]
    colours = style.colours(labels)
    owners = {name: label for label, name in figure.series.items() if label in labels}
    shown = {name: curves.series[name] for name in (owners or curves.series)}
    frame = pandas.DataFrame(
        [
            {"row": style.shown(owners.get(name, name)), "step": step, "value": value}
            for name, values in shown.items()
            for step, value in zip(curves.steps, values, strict=True)
            if value is not None
        ]
    )
    order = [label for label in labels if label in owners.values()] or list(shown)
    seaborn.lineplot(
        frame,
        x="step",
        y="value",
        hue="row",
        style="row",
        hue_order=[style.shown(name) for name in order],
        palette={style.shown(name): colours[style.shown(name)] for name in order} if owners else "colorblind",
        markers=style.markers(labels if owners else order),
        dashes=style.dashes(labels if owners else order),
        ax=axis,
    )
    axis.set(xlabel=step_name(figure.metric, evidence), ylabel="", title=f"published: {given.source.split(',')[0]}")
    style.set_ticks(axis, curves.steps, [f"{step:.9g}" for step in curves.steps], style.WIDTH / 2 - YLABEL)
    style.legend_below(axis, style.legend_columns(order, style.WIDTH / 2))
