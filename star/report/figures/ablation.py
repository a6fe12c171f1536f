"""Metrics against the value that an ablation varies; what the paper printed in the line of panels below."""

from __future__ import annotations

from typing import Any

from star.report.figures import style
from star.report.grid import paper_name
from star.report.markup import ARROWS
from star.report.published import published_of, spec_value
from star.report.table import Cell, Table
from star.spec.reporting import AblationFigure, Column


def draw_ablation(figure: AblationFigure, table: Table) -> Any | None:
    """Mean and standard deviation over seeds, each seed as a dot."""
    columns = [i for i, column in enumerate(table.columns) if column.metric and _wanted(figure, table, i)]
    variants = [v for v in table.experiment.variants if v.runs and (not figure.rows or v.label in figure.rows)]
    rows = {row.label: row for row in table.rows}
    ticks = [str(spec_value(variant, figure.x)) for variant in variants]
    cells = {i: [rows[variant.label].cells[i] for variant in variants] for i in columns}
    if not any(cell.values for column in cells.values() for cell in column):
        return None
    papers = any(_printed(cell) is not None for column in cells.values() for cell in column)
    lines = 2 if papers else 1
    drawing, axes = style.new(lines, len(columns), 0.5 + 1.7 * lines, min(style.WIDTH, 2.3 * len(columns)), sharex=True)
    own, paper = style.colours(["measured", "published"]).values()
    for place, i in enumerate(columns):
        _measured(axes[0, place], table.columns[i], cells[i], own)
        if papers:
            _published(axes[1, place], table.columns[i], cells[i], paper)
        axes[-1, place].set_xticks(range(len(ticks)), ticks)
        axes[-1, place].set_xlabel(figure.x.rsplit(".", 1)[-1].replace("_", " "))
        axes[-1, place].set_xlim(-0.4, len(ticks) - 0.6)
    counts = [len(cell.values) for column in cells.values() for cell in column if cell.values]
    axes[0, 0].set_ylabel(f"{table.experiment.profile}, {style.counted(counts)}")
    if papers:
        axes[1, 0].set_ylabel(f"published: {published_of(table.experiment).source.split(',')[0]}")
    return drawing


def _wanted(figure: AblationFigure, table: Table, index: int) -> bool:
    assert table.experiment.spec.table is not None  # a title may have become FID since it was written
    return not figure.columns or table.experiment.spec.table.columns[index].title in figure.columns


def _measured(axis: Any, column: Column, cells: list[Cell], colour: Any) -> None:
    there = [(x, cell) for x, cell in enumerate(cells) if cell.values]
    means = [cell.mean for _, cell in there]
    spreads = [cell.spread("std") or 0.0 for _, cell in there]
    axis.errorbar([x for x, _ in there], means, yerr=spreads, color=colour, marker="o", capsize=3, linewidth=1.2)
    for x, cell in there:
        axis.plot([x] * len(cell.values), cell.values, linestyle="", marker="_", color="0.35", markersize=7)
    axis.set_title(column.title + ARROWS[column.better])


def _published(axis: Any, column: Column, cells: list[Cell], colour: Any) -> None:
    there = [(x, value) for x, cell in enumerate(cells) if (value := _printed(cell)) is not None]
    if not there:
        axis.text(0.5, 0.5, "not printed", transform=axis.transAxes, ha="center", va="center", color="0.4")
        axis.set_yticks([])
        return
    axis.plot(*zip(*there, strict=True), color=colour, marker="s", linestyle="--", linewidth=1.2)
    assert column.published is not None
    axis.set_title(paper_name(column.published))


def _printed(cell: Cell) -> float | None:
    return float(cell.published) if isinstance(cell.published, int | float) else None
