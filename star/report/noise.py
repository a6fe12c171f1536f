"""Noise of measuring apart from noise of training: several measurements of each model, split into two spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance

from star.report.evidence import Evidence
from star.report.grid import Grid, Head, Line, Mark
from star.report.table import Table
from star.spec.experiment import Variant, axis_name


def spreads(values: Mapping[int, Sequence[float]]) -> tuple[float, float] | None:
    """Standard deviations (of training, of measuring) from seed -> several measurements of that seed's model.

    The components of a nested analysis of variance: what measurements of one model differ by, and what is left of the
    spread of the models' means after the share that this explains (0 if nothing is left). None with fewer than two
    models, or none measured twice. Models with one measurement are left out.
    """
    models = [list(one) for one in values.values() if len(one) > 1]
    if len(models) < 2:
        return None
    within = math.fsum(variance(one) * (len(one) - 1) for one in models) / sum(len(one) - 1 for one in models)
    share = within * fmean([1 / len(one) for one in models])
    between = max(0.0, variance([fmean(one) for one in models]) - share)
    return math.sqrt(between), math.sqrt(within)


def noise_grid(evidence: Evidence, table: Table) -> Grid | None:
    """The two spreads of each measured column, a line for each row of the table without its axis `noise`; None without it."""
    axis = table.spec.noise
    if axis is None:
        return None
    groups: dict[str, list[str]] = {}
    for variant in evidence.experiment.variants:
        if variant.runs:
            groups.setdefault(_without(variant, axis), []).append(variant.label)
    columns = [column for column in table.columns if column.metric is not None]
    heads = [Head(f"{column.title}, {what}") for column in columns for what in ("training", "measuring")]
    grid = Grid(
        [
            Head(f"standard deviation over {axis_name(axis, evidence.experiment.spec.axes)} and seeds", numeric=False),
            *heads,
        ]
    )
    for name, labels in groups.items():
        marks = []
        for column in columns:
            measured: dict[int, list[float]] = {}
            for label in labels:
                for source in evidence.numbers(label, column.metric or "").sources:
                    measured.setdefault(source.seed, []).append(source.value * column.scale)
            found = spreads(measured)
            marks += [Mark("-" if found is None else f"{one:.{column.digits}f}") for one in found or (0.0, 0.0)]
        grid.lines.append(Line([Mark(name), *marks]))
    return grid


def _without(variant: Variant, axis: str) -> str:
    """A row's label without its value on an axis."""
    parts = [part for other, part in variant.places.items() if other != axis]
    return ", ".join(filter(None, [variant.own_label, *parts])) or "all"
