"""Curves of an experiment as data: a metric by its step, each row's seeds together, beside the table."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from statistics import mean, stdev

from star.scheduler.plan import PlannedRun
from star.spec.experiment import CurveSpec, Experiment
from star.spec.graph import curve_names
from star.tracking import Tracker


@dataclass
class Curve:
    """One metric of all rows."""

    spec: CurveSpec
    rows: dict[str, dict[int, list[float]]]
    """Row label -> step -> values, one for each seed that has it."""

    @property
    def steps(self) -> list[int]:
        """All steps, in order."""
        return sorted({step for row in self.rows.values() for step in row})

    @property
    def step_name(self) -> str:
        """What a step is: position, layer or shift."""
        return curve_names()[self.spec.metric]


def build_curves(
    experiment: Experiment, runs: list[PlannedRun], tracked: dict[str, str], tracker: Tracker
) -> list[Curve]:
    """What the tracker holds of an experiment's curves.

    Args:
        tracked: run key -> the tracker's run, for runs that have one.
    """
    curves = []
    for spec in experiment.spec.curves:
        rows: dict[str, dict[int, list[float]]] = {variant.label: {} for variant in experiment.variants}
        for run in runs:
            if run.key in tracked:
                for step, value in tracker.curve(tracked[run.key], spec.metric):
                    rows[run.label].setdefault(step, []).append(value * spec.scale)
        curves.append(Curve(spec, rows))
    return curves


def markdown(curves: list[Curve]) -> list[str]:
    """A small table for each curve: rows under steps, mean and standard deviation over seeds."""
    lines = []
    for curve in curves:
        head = [curve.step_name, *map(str, curve.steps)]
        lines += ["", f"{curve.spec.title}:", "", f"| {' | '.join(head)} |", "|---" + "|---:" * len(curve.steps) + "|"]
        for label, row in curve.rows.items():
            cells = [_cell(row.get(step, []), curve.spec.digits) for step in curve.steps]
            lines.append(f"| {' | '.join([label.replace('|', chr(92) + '|'), *cells])} |")
    return lines


def comma_separated(curves: list[Curve]) -> str:
    """One line per metric, row and step: mean, spread and number of seeds."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["metric", "row", "step", "mean", "std", "n"])
    for curve in curves:
        for label, row in curve.rows.items():
            for step, values in sorted(row.items()):
                spread = stdev(values) if len(values) > 1 else None
                writer.writerow([curve.spec.metric, label, step, mean(values), spread, len(values)])
    return buffer.getvalue()


def _cell(values: list[float], digits: int) -> str:
    if not values:
        return ""
    text = f"{mean(values):.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
