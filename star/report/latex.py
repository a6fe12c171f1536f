"""A table as LaTeX that fits the line on one-column and two-column pages; it needs no package but booktabs."""

from __future__ import annotations

from dataclasses import dataclass

from star.report.grid import Grid, Line, Mark, difference_grids, difference_note, main_grid
from star.report.letters import printed
from star.report.markup import LATEX_ARROWS, escaped, latex_mark
from star.report.table import Table

SIZES = (r"\footnotesize", r"\scriptsize", r"\tiny")
WIDE, NARROW = (75, 84, 108), (44, 49, 61)
"""Characters of a line at each size, with two for the space between columns.

WIDE is for the 345 pt of the standard classes, NARROW for the 229 pt of one of two columns.
"""
LONG = 20
"""Tables of more lines may be tiny, because split in two they would not fit on a page."""
BREAKS_BELOW = "300pt"
"""The narrow layout is used if the line is shorter than this."""
HIGHEST, LINE, NOTE = 480, 8.0, 9.5
"""Heights in points: the most that a table may have, one of its lines, and one line of its notes."""
PAGE, ROW, ROWS = 680, 9.5, (9.5, 8.0, 6.5)
"""The most that rows and notes of the wide layout may have on a page, by this estimate, one row, and one at each size."""
BOLD = 8
"""Characters of a full line that bold letters and many digits may want more than they are counted for."""
SHARE = 0.44
"""Largest share of the line that a column takes; longer texts wrap."""
PREAMBLE = [
    r"% \usepackage{booktabs}",
    r"\providecommand{\unicodeletter}[2]{\ifdefined\Umathchar#2\else U+#1\fi}% for letters that pdflatex has no sign for",
]


@dataclass(frozen=True)
class _Layout:
    """One size and width for all tabulars of a table."""

    size: str
    width: int

    @property
    def row(self) -> float:
        """Height of one row in points."""
        return ROWS[SIZES.index(self.size)]

    @property
    def widest(self) -> int:
        """Characters of the widest column that does not wrap."""
        return int(SHARE * self.width)


def latex(table: Table) -> str:
    """The content of the file `table.tex`, as the table's `latex` options say."""
    options, grid, differences = table.spec.latex, main_grid(table), difference_grids(table)
    if "rows" in options:
        told = [
            f"% {line.removeprefix('% ')}" for line in [*PREAMBLE, " & ".join(_heads(grid))]
        ]  # commented out: the file is read at the start of a row in a tabular
        return "\n".join([*told, *_rows(grid, None)]) + "\n"
    notes = [] if "no-notes" in options else [*table.notes, *([f"{difference_note(table)}."] if differences else [])]
    grids = [grid, *differences]
    return (
        "\n".join([*PREAMBLE, *_floating(grids, escaped(table.spec.caption), " ".join(notes), "star" in options)])
        + "\n"
    )


def _floating(grids: list[Grid], caption: str, notes: str, star: bool) -> list[str]:
    """A floating table; it spans both columns if `star` is set or if it would be higher than a column."""
    wide = [line for one in grids for line in _stacked(one, WIDE)]
    if _rows_of(wide) * ROW + len(notes) / WIDE[0] * NOTE > PAGE:  # split in two it would not fit on a page
        wide = [line for one in grids for line in _stacked(one, WIDE, small=True)]
        height = sum(_rows_of(_stacked(one, WIDE, small=True)) * _fitting(one, WIDE, small=True).row for one in grids)
        if height + len(notes) / WIDE[0] * NOTE > PAGE:
            return _several(grids, caption, notes)
    narrow = [line for one in grids for line in _stacked(one, NARROW)]
    kind, lines = "table*" if star else "table", []
    if star or wide == narrow:
        body = wide
    elif len(narrow) * LINE + len(notes) / NARROW[0] * NOTE < HIGHEST:
        body = [rf"\ifdim\linewidth<{BREAKS_BELOW}", *narrow, r"\else", *wide, r"\fi"]
    else:
        kind, body = r"\tablekind", wide
        lines = [rf"\ifdim\linewidth<{BREAKS_BELOW}\def\tablekind{{table*}}\else\def\tablekind{{table}}\fi"]
    lines += [rf"\begin{{{kind}}}", r"\centering", rf"\caption{{{caption}}}", *body]
    if notes:
        text = escaped(notes, breaking=True)
        lines.append(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize\raggedright {text}}}")
    return [*lines, rf"\end{{{kind}}}"]


def _rows_of(lines: list[str]) -> int:
    return sum(line.count(r"\\") + line.count("rule") for line in lines)


def _several(grids: list[Grid], caption: str, notes: str) -> list[str]:
    """A floating table for each tabular, where one with all of them would be higher than a page."""
    tabulars: list[list[str]] = []
    for grid in grids:
        layout = _fitting(grid, WIDE, small=True)
        for part in grid.parts(layout.width - BOLD, layout.widest):
            size = rf"{layout.size}\setlength{{\tabcolsep}}{{4pt}}"
            tabulars.append([rf"\begingroup{size}", *_tabular(part, layout), r"\par\endgroup"])
    lines = [rf"\ifdim\linewidth<{BREAKS_BELOW}\def\tablekind{{table*}}\else\def\tablekind{{table}}\fi"]
    for i, tabular in enumerate(tabulars, start=1):
        lines += [r"\begin{\tablekind}", r"\centering", rf"\caption{{{caption} ({i} of {len(tabulars)})}}", *tabular]
        if notes and i == len(tabulars):
            text = escaped(notes, breaking=True)
            lines.append(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize\raggedright {text}}}")
        lines.append(r"\end{\tablekind}")
    return lines


def _fitting(grid: Grid, widths: tuple[int, int, int], small: bool) -> _Layout:
    """The largest letters with which a grid fits the line, or else the smallest that are legal here."""
    usable = widths if small or len(grid.lines) > LONG or widths is NARROW else widths[:2]
    layouts = [_Layout(size, width) for size, width in zip(SIZES, usable, strict=False)]
    return next((one for one in layouts if grid.needed(one.widest) <= one.width), layouts[-1])


def _stacked(grid: Grid, widths: tuple[int, int, int], small: bool = False) -> list[str]:
    """As many tabulars as the line's width needs, the first column in each."""
    chosen = _fitting(grid, widths, small)
    lines = [rf"\begingroup{chosen.size}\setlength{{\tabcolsep}}{{4pt}}"]
    for part in grid.parts(chosen.width, chosen.widest):
        lines += [r"\par\medskip", *_tabular(part, chosen)]
    return [*lines, r"\par\endgroup"]


def _tabular(grid: Grid, layout: _Layout) -> list[str]:
    spec = "".join("r" if head.numeric else "l" for head in grid.heads)
    heads = " & ".join(
        text if printed(head.title) + 2 <= layout.widest else _broken(grid, i, text, layout)
        for i, (text, head) in enumerate(zip(_heads(grid), grid.heads, strict=True))
    )
    lines = [rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}", r"\toprule", rf"{heads} \\", r"\midrule"]
    return [*lines, *_rows(grid, layout), r"\bottomrule", r"\end{tabular}"]


def _heads(grid: Grid) -> list[str]:
    texts = [(head.latex or escaped(head.title)) + LATEX_ARROWS[head.better] for head in grid.heads]
    return [rf"\textit{{{text}}}" if head.paper else text for text, head in zip(texts, grid.heads, strict=True)]


def _rows(grid: Grid, layout: _Layout | None) -> list[str]:
    lines = []
    for i, line in enumerate(grid.lines):
        if line.group:
            lines += [*([r"\midrule"] if i else []), _group(grid, line, layout)]
        else:
            cells = [_cell(grid, j, mark, layout) for j, mark in enumerate(line.cells)]
            lines.append("{}" + " & ".join(cells) + r" \\")  # or a leading `[` would be read as \\[...]
    return lines


def _group(grid: Grid, line: Line, layout: _Layout | None) -> str:
    text = latex_mark(line.cells[0])
    if layout is not None and printed(line.cells[0].text) > layout.width // 2:
        text = rf"\parbox[t]{{\linewidth}}{{\raggedright {latex_mark(line.cells[0], breaking=True)}\strut}}"
    return rf"\multicolumn{{{len(grid.heads)}}}{{@{{}}l}}{{{text}}} \\"


def _cell(grid: Grid, column: int, mark: Mark, layout: _Layout | None) -> str:
    if layout is None or printed(mark.text + mark.after) + 2 <= layout.widest:
        return latex_mark(mark)
    return _broken(grid, column, latex_mark(mark, breaking=True), layout)


def _broken(grid: Grid, column: int, text: str, layout: _Layout) -> str:
    """A text that wraps, if its column would be too wide."""
    if grid.sizes()[column] <= layout.widest:
        return text
    side = r"\raggedleft" if grid.heads[column].numeric else r"\raggedright"
    return rf"\parbox[t]{{{SHARE - 0.03:.2f}\linewidth}}{{{side} {text}\strut}}"
