"""A table as HTML and CSV, and the provenance of its cells."""

from __future__ import annotations

import csv
import io
from html import escape

from star.report import markup
from star.report.grid import difference_grids, difference_note, main_grid
from star.report.markup import Link
from star.report.table import Cell, Table
from star.spec.reporting import Column

VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; text-align: left; white-space: nowrap; vertical-align: top; }
td.w { white-space: normal; min-width: 14rem; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
thead th { border-top: 2px solid; border-bottom: 1px solid; }
tbody tr:last-child td { border-bottom: 2px solid; }
tr.g td { border-top: 1px solid #999; color: #555; }
small { color: #555; }
a { color: inherit; text-decoration-color: #9bb; }
figure { margin: 1.5rem 0; } figcaption { color: #555; }
img { max-width: min(100%, 46rem); height: auto; }
.supported { color: #00674f; } .contradicted { color: #a33c00; } .undecided { color: #555; }
"""


def html_parts(table: Table, link: Link) -> list[str]:
    """The table with its differences and notes, as lines of HTML."""
    lines = markup.html(main_grid(table), link)
    differences = difference_grids(table)
    if differences:
        lines.append(f"<p>{escape(difference_note(table))}:</p>")
    for grid in differences:
        lines += markup.html(grid, link)
    return lines + ["<p><small>" + "<br>".join(escape(note) for note in table.notes) + "</small></p>"]


def html(table: Table, link: Link) -> str:
    """The table as a self-contained HTML page."""
    title = escape(table.experiment.spec.title)
    return page(title, [f"<h1>{title}</h1>", *html_parts(table, link)])


def page(title: str, lines: list[str]) -> str:
    """A self-contained HTML page; `title` and `lines` are HTML already."""
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{VIEWPORT}<title>{title}</title><style>{STYLE}</style></head>'
    return "\n".join([head, "<body>", *lines, "</body></html>"]) + "\n"


def comma_separated(table: Table) -> str:
    """The table as CSV, one line per row: mean, std, seeds, state, published value and difference of each metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["row", "group", "quoted"]
    for column in table.columns:
        head += [column.title] if column.metric is None else [column.title, *_names(table, column)]
    writer.writerow(head)
    for row in table.rows:
        line: list[object] = [row.label, row.group or "", "quoted" if row.paper_only else ""]
        for column, cell in zip(table.columns, row.cells, strict=True):
            line += [cell.text] if column.metric is None else _values(table, column, cell)
        writer.writerow(line)
    return buffer.getvalue()


def _names(table: Table, column: Column) -> list[str]:
    names = ["std", "n", "state", *(["paper"] if column.published else [])]
    baselines = table.spec.baselines
    for baseline in baselines:
        to = f" to {baseline}" if len(baselines) > 1 else ""
        names += [f"{name}{to}" for name in ("difference", "low", "high", "p")]
    return [f"{column.title} {name}" for name in names]


def _values(table: Table, column: Column, cell: Cell) -> list[object]:
    values: list[object] = [
        cell.mean,
        cell.spread("std"),
        len(cell.values),
        cell.state or ("done" if cell.values else ""),
    ]
    values += [cell.published] if column.published else []
    for baseline in table.spec.baselines:
        one = cell.differences.get(baseline)
        values += [one.found.estimate, one.found.low, one.found.high, one.p] if one else [None, None, None, None]
    return values


def cells_of(table: Table) -> list[dict[str, object]]:
    """Provenance of each measured cell: runs, stage keys and code of its values, and missing seeds."""
    return [
        {
            "row": row.label,
            "column": column.title,
            "sources": [vars(source) for source in cell.numbers.sources],
            "missing": cell.numbers.missing,
        }
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell.numbers is not None
    ]
