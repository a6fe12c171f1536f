"""Curves as data, a metric by step with each row's seeds together, in Markdown and CSV."""

from __future__ import annotations

import csv
import io
from statistics import mean, stdev

from star.report import markup
from star.report.evidence import Evidence
from star.spec.graph import curve_names
from star.spec.reporting import CurvesFigure

WIDEST = 16
"""Most steps that a Markdown table may have; longer curves are only drawn and written to the CSV."""


def step_name(metric: str, evidence: Evidence) -> str:
    """What a step of a curve counts, such as position, layer, shift or step."""
    return curve_names(evidence.experiment.spec.pipeline)[metric]


def curves_of(evidence: Evidence) -> list[CurvesFigure]:
    """The curve figures of an experiment."""
    return [figure for figure in evidence.experiment.spec.figures if isinstance(figure, CurvesFigure)]


def by_step(figure: CurvesFigure, evidence: Evidence) -> dict[str, dict[int, list[float]]]:
    """A figure's curves: row -> step -> scaled values, one for each seed that has the step."""
    rows: dict[str, dict[int, list[float]]] = {}
    for label in figure.rows or [variant.label for variant in evidence.experiment.variants if variant.runs]:
        rows[label] = {}
        for points in evidence.curve(label, figure.metric).values():
            for step, value in points.items():
                rows[label].setdefault(step, []).append(value * figure.scale)
    return rows


def markdown(figure: CurvesFigure, evidence: Evidence) -> list[str]:
    """A Markdown table of rows by steps: mean and standard deviation over seeds; empty for more than WIDEST steps."""
    rows = by_step(figure, evidence)
    steps = sorted({step for row in rows.values() for step in row})
    if not 0 < len(steps) <= WIDEST:
        return []
    head = [markup.plain(step_name(figure.metric, evidence)), *map(str, steps)]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * len(steps) + "|"]
    for label, row in rows.items():
        cells = [_cell(row.get(step, []), figure.digits) for step in steps]
        lines.append(f"| {' | '.join([markup.plain(label), *cells])} |")
    return lines


def comma_separated(evidence: Evidence) -> str:
    """All curves as CSV, one line per metric, row and step: mean, standard deviation and number of seeds, unscaled."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["metric", "row", "step", "mean", "std", "n"])
    for figure in curves_of(evidence):
        for label, row in by_step(figure.model_copy(update={"scale": 1.0}), evidence).items():
            for step, values in sorted(row.items()):
                spread = stdev(values) if len(values) > 1 else None
                writer.writerow([figure.metric, label, step, mean(values), spread, len(values)])
    return buffer.getvalue()


def _cell(values: list[float], digits: int) -> str:
    if not values:
        return ""
    text = f"{mean(values):.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
