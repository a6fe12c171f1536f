"""A table as lines of marked texts, from which Markdown, LaTeX and HTML are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from star.report.letters import printed
from star.report.method import NAMES
from star.report.stats import LEVEL, MIN_BOOTSTRAP, Interval
from star.report.table import Cell, Difference, Row, Table
from star.spec.reporting import Column


@dataclass(frozen=True)
class Mark:
    """One cell's text and how it is emphasized."""

    text: str
    bold: bool = False
    underlined: bool = False
    italic: bool = False
    after: str = ""
    """Printed behind the text and never bold, such as the spread and how many seeds are missing."""
    runs: tuple[str, ...] = ()
    """Keys of the runs behind the cell."""
    values: tuple[float, ...] = ()
    """The cell's values, one per seed."""
    latex: str | None = None
    """The whole cell in LaTeX, if it is not made from `text`."""


@dataclass(frozen=True)
class Head:
    """The head of a column."""

    title: str
    better: str | None = None
    latex: str | None = None
    numeric: bool = True
    paper: bool = False


@dataclass(frozen=True)
class Line:
    """A line of a table; the head of a group has one cell that spans all columns."""

    cells: list[Mark]
    group: bool = False


@dataclass
class Grid:
    """A table as column heads and lines."""

    heads: list[Head]
    lines: list[Line] = field(default_factory=list)

    def needed(self, widest: int) -> int:
        """Line width in characters if columns wider than `widest` wrap."""
        return sum(min(size, widest) for size in self.sizes())

    def sizes(self) -> list[int]:
        """Width of each column in characters, including two for the space behind it."""
        rows = [line.cells for line in self.lines if not line.group]
        return [
            2 + max(printed(head.title), *(printed(cells[i].text + cells[i].after) for cells in rows)) if rows else 2
            for i, head in enumerate(self.heads)
        ]

    def parts(self, width: int, widest: int | None = None) -> list[Grid]:
        """Split the grid into grids of at most `width` characters, the first column in each; a column is never split.

        Args:
            widest: width in characters at which a column wraps; None if columns do not wrap.
        """
        sizes = [min(size, widest or size) for size in self.sizes()]
        blocks: list[list[int]] = [[]]
        for i in range(1, len(self.heads)):
            if blocks[-1] and sizes[0] + sum(sizes[j] for j in blocks[-1]) + sizes[i] > width:
                blocks.append([])
            blocks[-1].append(i)
        return [self._columns([0, *block]) for block in blocks]

    def _columns(self, kept: list[int]) -> Grid:
        lines = [line if line.group else Line([line.cells[i] for i in kept]) for line in self.lines]
        told = [line for line in lines if line.group or len(kept) == 1 or any(mark.text for mark in line.cells[1:])]
        ends = [*told[1:], Line([], group=True)]  # a group's head is left out if none of its rows is shown
        shown = [line for line, after in zip(told, ends, strict=False) if not (line.group and after.group)]
        return Grid([self.heads[i] for i in kept], shown)


def main_grid(table: Table) -> Grid:
    """The grid of a table, without its differences."""
    if table.spec.grid is not None:
        return _crossed(table, *table.spec.grid)
    beside = table.spec.paper == "beside"
    grid = Grid(list(_heads(table, beside)))
    for group, rows in groupby(table.rows, key=lambda row: row.group):
        if group is not None:
            grid.lines.append(Line([Mark(group, italic=True)], group=True))
        for row in rows:
            grid.lines += _lines(table, row, beside)
    for words, texts in table.limits:
        marks: list[Mark] = []
        for column, text in zip(table.columns, texts, strict=True):
            marks += [Mark(text, italic=True), *([Mark("")] if beside and column.published and column.metric else [])]
        grid.lines.append(Line([Mark(words, italic=True), *marks[1:]]))
    return grid


def _crossed(table: Table, down: str, across: str) -> Grid:
    """The values of one field as lines and of another as columns, with a block for each measured column."""
    variants = {variant.label: variant for variant in table.experiment.variants}
    places = {tuple(str(variants[row.label].value(path)) for path in (down, across)): row for row in table.rows}
    columns = list(dict.fromkeys(place[1] for place in places))
    name = field_name(table.columns, across)
    first = next((column.latex for column in table.columns if column.spec == down), None)
    grid = Grid(
        [
            Head(field_name(table.columns, down), latex=first, numeric=False),
            *(Head(f"{name} {value}") for value in columns),
        ]
    )
    for i, column in enumerate(table.columns):
        if column.metric is None:
            continue
        better = f", {column.better} is better" if column.better else ""
        title = None if column.latex is None else rf"\textit{{{column.latex}{better}}}"
        grid.lines.append(Line([Mark(f"{column.title}{better}", italic=True, latex=title)], group=True))
        for value in dict.fromkeys(place[0] for place in places):
            rows = [places.get((value, other)) for other in columns]
            marks = [cell_mark(table, row, column, row.cells[i]) if row else Mark("") for row in rows]
            grid.lines.append(Line([Mark(value), *marks]))
            papers = [paper_mark(column, row.cells[i]) if row else Mark("") for row in rows]
            if any(mark.text for mark in papers):
                grid.lines.append(Line([Mark("paper", italic=True), *papers]))
        for words, texts in table.limits:
            if texts[i]:
                grid.lines.append(Line([Mark(f"{words}: {texts[i]}", italic=True)], group=True))
    return grid


def field_name(columns: Sequence[Column], path: str) -> str:
    """The title of the column that shows a field, or the field's own name."""
    titled = next((column.title for column in columns if column.spec == path), None)
    return titled or path.rsplit(".", 1)[-1].replace("_", " ")


def difference_grids(table: Table) -> list[Grid]:
    """Differences with their 95% intervals, a grid for each baseline row that rows are compared with."""
    shown = [i for i, column in enumerate(table.columns) if column.metric is not None]
    grids = []
    for baseline in table.spec.baselines:
        grid = Grid([Head(f"Minus {baseline}", numeric=False)])
        grid.heads += [Head(table.columns[i].title, table.columns[i].better, table.columns[i].latex) for i in shown]
        for row in (row for row in table.rows if any(baseline in cell.differences for cell in row.cells)):
            marks = [_difference(row.cells[i].differences.get(baseline), table.columns[i]) for i in shown]
            grid.lines.append(Line([Mark(row.label), *marks]))
        grids += [grid] if grid.lines else []
    return grids


def difference_note(table: Table) -> str:
    """Caption of the differences: how their intervals are made and what is bold; without intervals nothing is bold."""
    found = [one.found for row in table.rows for cell in row.cells for one in cell.differences.values()]
    if all(one.low is None for one in found):
        least = f"{MIN_BOOTSTRAP} seeds" if table.experiment.spec.interval == "bootstrap" else "two seeds"
        return f"Differences, without intervals: those want at least {least} that differ"
    method = NAMES[table.experiment.spec.interval]
    return (
        f"Differences with 95% {method} intervals over seeds, each by itself; in bold what remains at 5% over all comparisons of "
        "its column (Holm)"
    )


def _heads(table: Table, beside: bool) -> Iterator[Head]:
    for column in table.columns:
        yield Head(column.title, column.better, column.latex, column.metric is not None)
        if beside and column.published and column.metric:
            yield Head(f"paper {paper_name(column.published)}", paper=True)


def paper_name(column: str) -> str:
    """Display name of a published column: sFID, names of up to four letters in upper case, others as words."""
    if column == "sfid":
        return "sFID"
    return column.upper() if len(column) <= 4 else column.replace("_", " ")


def _lines(table: Table, row: Row, beside: bool) -> Iterator[Line]:
    if not (row.paper_only and not beside):
        cells: list[Mark] = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            cells.append(cell_mark(table, row, column, cell))
            if beside and column.published and column.metric:
                cells.append(paper_mark(column, cell))
        yield Line(cells)
    published = [paper_mark(column, cell) for column, cell in zip(table.columns, row.cells, strict=True)]
    if beside or not any(mark.text for mark in published):
        return
    if row.paper_only:
        plain = [cell_mark(table, row, column, cell) for column, cell in zip(table.columns, row.cells, strict=True)]
        yield Line([p if c.metric else t for p, t, c in zip(published, plain, table.columns, strict=True)])
    else:
        yield Line([Mark("paper", italic=True), *published[1:]])


def cell_mark(table: Table, row: Row, column: Column, cell: Cell) -> Mark:
    """A cell as shown: its text, its mean and spread, or why it has no value."""
    if column.metric is None:
        after = " (quoted)" if row.paper_only and column is _first_text(table) else ""
        return Mark(cell.text or "", after=after)
    if row.paper_only:
        return Mark("")
    assert cell.numbers is not None
    if cell.mean is None:
        return Mark(f"({cell.state})" if cell.state else "-")
    spread = cell.spread(table.spec.spread)
    after = "" if spread is None else f" ± {spread:.{column.digits}f}"
    if cell.numbers.missing:
        after += f" ({len(cell.values)} of {cell.seeds} seeds; {cell.state})"
    runs = tuple(source.run for source in cell.numbers.sources)
    return Mark(
        f"{cell.mean:.{column.digits}f}", cell.rank == 1, cell.rank == 2, False, after, runs, tuple(cell.values)
    )


def _first_text(table: Table) -> Column | None:
    return next((column for column in table.columns if column.metric is None), None)


def paper_mark(column: Column, cell: Cell) -> Mark:
    """The published value of a cell, in italics; empty if there is none."""
    value = cell.published if column.metric else None
    if value is None:
        return Mark("")
    if isinstance(value, str):
        return Mark(value, italic=True)
    printed = len(f"{value}".partition(".")[2]) if isinstance(value, float) else 0
    return Mark(f"{value:.{max(column.digits, printed)}f}", italic=True)


def _difference(one: Difference | None, column: Column) -> Mark:
    if one is None:
        return Mark("")
    return Mark(interval_text(one.found, column.digits), bold=one.p is not None and one.p < 1 - LEVEL)


def interval_text(found: Interval, digits: int) -> str:
    """An interval as text, such as `+1.20 [+0.40, +2.00]`; the estimate alone if it has no bounds."""
    text = f"{found.estimate:+.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
