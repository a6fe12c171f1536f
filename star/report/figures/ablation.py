"""Metrics against the value that an ablation varies, with published values in a second row of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from star.report.figures import style
from star.report.grid import paper_name
from star.report.markup import ARROWS
from star.report.published import published_of
from star.report.table import Cell, Table
from star.spec.experiment import Experiment, Variant, axis_name
from star.spec.reporting import AblationFigure, Column
from star.tracking.writer import flattened

USE = "use"
"""Stands for a row's presets, in place of a field's path."""
LEGEND = 0.25
"""Height of a line of the legend in inches."""
Points = list[tuple[int, Cell]]
"""Positions of values on the axis, with the cell of each."""


def draw_ablation(figure: AblationFigure, table: Table) -> Any | None:
    """Draw mean and standard deviation over seeds, and each seed as a dash; None while nothing is measured.

    There is a line for each value of what else the rows differ in.
    """
    columns = [i for i, column in enumerate(table.columns) if column.metric and _wanted(figure, table, i)]
    wanted = [v for v in table.experiment.variants if v.runs and (not figure.rows or v.label in figure.rows)]
    variants = [variant for variant in wanted if variant.is_varied(figure.x)]
    rows = {row.label: row for row in table.rows}
    values = [variant.value(figure.x) for variant in variants]
    ticks = list(dict.fromkeys(map(str, values)))
    lines = {
        name: sorted(
            ((ticks.index(str(variant.value(figure.x))), rows[variant.label]) for variant in members),
            key=lambda point: point[0],
        )
        for name, members in lines_of(table.experiment, variants, figure.x).items()
    }
    points = {i: {name: [(x, row.cells[i]) for x, row in line] for name, line in lines.items()} for i in columns}
    cells = [cell for by_line in points.values() for line in by_line.values() for _, cell in line]
    if not any(cell.values for cell in cells):
        return None
    papers = any(_printed(cell) is not None for cell in cells)
    panels, told = 2 if papers else 1, len(lines) > 1
    width = min(style.WIDTH, 2.3 * len(columns))
    width = max(width, style.legend_width(list(lines))) if told else width
    legend = style.legend_columns(list(lines), width)
    height = 0.5 + 1.7 * panels + (LEGEND * sum(style.legend_lines(list(lines), legend)) if told else 0)
    drawing, axes = style.new(panels, len(columns), height, width, sharex=True)
    room = (width / len(columns) - 0.6) / len(ticks)
    turned = {"rotation": 45, "ha": "right"} if max(map(style.text_width, ticks)) > room else {}
    own, paper = style.colours(["measured", "published"]).values()
    colours = (
        dict.fromkeys(lines, own) if not told else dict(zip(lines, style.colours(list(lines)).values(), strict=True))
    )
    for place, i in enumerate(columns):
        axes[0, place].set_title(table.columns[i].title + ARROWS[table.columns[i].better])
        for number, (name, line) in enumerate(points[i].items()):
            _measured(axes[0, place], line, name, colours[name], number)
        if papers:
            _published(axes[1, place], table.columns[i], points[i], colours if told else dict.fromkeys(lines, paper))
        axes[-1, place].set_xticks(range(len(ticks)), ticks, **turned)
        axes[-1, place].set_xlabel(_short(figure.x))
        axes[-1, place].set_xlim(-0.4, len(ticks) - 0.6)
    counts = [len(cell.values) for cell in cells if cell.values]
    axes[0, 0].set_ylabel(f"{table.experiment.profile}, {style.counted(counts)}")
    if papers:
        axes[1, 0].set_ylabel(f"published: {published_of(table.experiment).source.split(',')[0]}")
    if told:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=legend)
    return drawing


def lines_of(experiment: Experiment, variants: Sequence[Variant], x: str) -> dict[str, list[Variant]]:
    """What rows differ in besides `x` -> those rows; a single line with an empty label if each row has its own `x`."""
    places = [str(variant.value(x)) for variant in variants]
    if len(set(places)) == len(places):
        return {"": list(variants)}
    lines: dict[str, list[Variant]] = {}
    if experiment.spec.rows and x in experiment.spec.axes:  # lines are named by the rows' labels, without `x`
        own = f"{axis_name(x, experiment.spec.axes)}="
        for variant in variants:
            rest = ", ".join(part for part in variant.label.split(", ") if not part.startswith(own))
            lines.setdefault(style.shown(rest), []).append(variant)
        return lines
    paths = [
        path for path in dict.fromkeys(p for variant in variants for p in _varied(experiment, variant)) if path != x
    ]
    others = [{path: str(_value(variant, path)) for path in paths} for variant in variants]
    differing = [path for path in paths if len({other[path] for other in others}) > 1]
    for variant, other in zip(variants, others, strict=True):
        named = [f"{_short(path)} {other[path]}" for path in differing]
        lines.setdefault(style.shown(", ".join(named) or variant.label), []).append(variant)
    return lines


def _varied(experiment: Experiment, variant: Variant) -> list[str]:
    """Paths that a row sets: the axes, the fields of its own spec, and USE if it has presets."""
    return [*experiment.spec.axes, *flattened(variant.row.spec), *([USE] if variant.row.use else [])]


def _value(variant: Variant, path: str) -> Any:
    """The value of a field, also if the row leaves it at its default; for USE the names of the row's presets."""
    return ", ".join(variant.row.use) or "nothing" if path == USE else variant.value(path)


def _short(path: str) -> str:
    return path.rsplit(".", 1)[-1].replace("_", " ")


def _wanted(figure: AblationFigure, table: Table, index: int) -> bool:
    assert table.experiment.spec.table is not None  # a title may have become FID since it was written
    return not figure.columns or table.experiment.spec.table.columns[index].title in figure.columns


def _measured(axis: Any, line: Points, name: str, colour: Any, number: int) -> None:
    there = sorted(((x, cell) for x, cell in line if cell.values), key=lambda point: point[0])
    means = [cell.mean for _, cell in there]
    spreads = [cell.spread("std") or 0.0 for _, cell in there]
    looks = {"color": colour, "marker": style.MARKERS[number % len(style.MARKERS)], "capsize": 3, "linewidth": 1.2}
    axis.errorbar([x for x, _ in there], means, yerr=spreads, label=name, **looks)
    for x, cell in there:
        dots = "0.35" if not name else colour
        axis.plot([x] * len(cell.values), cell.values, linestyle="", marker="_", color=dots, markersize=7)


def _published(axis: Any, column: Column, lines: dict[str, Points], colours: dict[str, Any]) -> None:
    found = False
    for number, (name, line) in enumerate(lines.items()):
        there = sorted((x, value) for x, cell in line if (value := _printed(cell)) is not None)
        if there:
            found = True
            marker = "s" if not name else style.MARKERS[number % len(style.MARKERS)]
            axis.plot(*zip(*there, strict=True), color=colours[name], marker=marker, linestyle="--", linewidth=1.2)
    if not found:
        axis.text(0.5, 0.5, "not printed", transform=axis.transAxes, ha="center", va="center", color="0.4")
        axis.set_yticks([])
        return
    assert column.published is not None
    axis.set_title(paper_name(column.published))


def _printed(cell: Cell) -> float | None:
    return float(cell.published) if isinstance(cell.published, int | float) else None
