"""Grids as Markdown, LaTeX and HTML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from html import escape

from star.report.grid import Grid, Mark

ARROWS = {"lower": "↓", "higher": "↑", None: ""}
LATEX_ARROWS = {"lower": r"$\downarrow$", "higher": r"$\uparrow$", None: ""}
Link = Callable[[tuple[str, ...]], str]
"""MLflow runs -> the address of a page that shows them."""


def markdown(grid: Grid) -> list[str]:
    """Lines of a GitHub table."""

    def cell(mark: Mark) -> str:
        text = plain(mark.text)
        if text and mark.bold:
            text = f"**{text}**"
        elif text and mark.underlined:
            text = f"<ins>{text}</ins>"
        elif text and mark.italic:
            text = f"*{text}*"
        return text + (f" {plain(mark.after)}" if mark.after else "")

    heads = [plain(head.title) + ARROWS[head.better] for head in grid.heads]
    lines = [f"| {' | '.join(heads)} |", "|" + "|".join("---:" if h.numeric else "---" for h in grid.heads) + "|"]
    for line in grid.lines:
        cells = [cell(mark) for mark in line.cells] + [""] * (len(grid.heads) - len(line.cells))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line; an underscore inside a word needs no escape."""
    return re.sub(r"([|*`\\]|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


def latex(grid: Grid) -> list[str]:
    """Lines of a booktabs tabular, as wide as the text allows."""

    def cell(mark: Mark) -> str:
        text = escaped(mark.text)
        if text and mark.bold:
            text = rf"\textbf{{{text}}}"
        elif text and mark.underlined:
            text = rf"\underline{{{text}}}"
        elif text and mark.italic:
            text = rf"\textit{{{text}}}"
        return text + escaped(mark.after)

    heads = [(h.latex or escaped(h.title)) + LATEX_ARROWS[h.better] for h in grid.heads]
    heads = [rf"\textit{{{text}}}" if h.paper else text for text, h in zip(heads, grid.heads, strict=True)]
    spec = "".join("r" if head.numeric else "l" for head in grid.heads)
    lines = [rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    for i, line in enumerate(grid.lines):
        if line.group:
            rule = [r"\midrule"] if i else []
            lines += [*rule, rf"\multicolumn{{{len(grid.heads)}}}{{@{{}}l}}{{{cell(line.cells[0])}}} \\"]
        else:
            lines.append(
                "{}" + " & ".join(cell(mark) for mark in line.cells) + r" \\"
            )  # or `[` would be taken for \\[...]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def html(grid: Grid, link: Link) -> list[str]:
    """Lines of a table; a measured cell links to its runs and tells its values when pointed at."""

    def cell(mark: Mark) -> str:
        text = escape(mark.text)
        for on, tag in ((mark.bold, "b"), (mark.underlined, "u"), (mark.italic, "i")):
            text = f"<{tag}>{text}</{tag}>" if on and text else text
        if mark.runs:
            values = ", ".join(f"{value:.6g}" for value in mark.values)
            text = f'<a href="{escape(link(mark.runs), quote=True)}" title="{values}">{text}</a>'
        return text + (f"<small>{escape(mark.after)}</small>" if mark.after else "")

    def attributes(numeric: bool) -> str:
        return ' class="n"' if numeric else ""

    lines = ["<table>", "<thead><tr>"]
    lines += [
        f"<th{attributes(h.numeric)}>{'<i>' if h.paper else ''}{escape(h.title)}{ARROWS[h.better]}{'</i>' if h.paper else ''}</th>"
        for h in grid.heads
    ]
    lines += ["</tr></thead>", "<tbody>"]
    for line in grid.lines:
        if line.group:
            lines.append(f'<tr class="g"><td colspan="{len(grid.heads)}">{cell(line.cells[0])}</td></tr>')
            continue
        cells = "".join(
            f"<td{attributes(head.numeric)}>{cell(mark)}</td>"
            for head, mark in zip(grid.heads, line.cells, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    return [*lines, "</tbody>", "</table>"]


def escaped(text: str) -> str:
    """Plain text for LaTeX."""
    special = {
        "\\": r"\textbackslash{}",
        "✓": r"$\surd$",
        "±": r"$\pm$",
        "“": "``",
        "”": "''",
        "†": r"$\dagger$",
        "·": r"$\cdot$",
        "−": "$-$",
        "→": r"$\rightarrow$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": r"\textbar{}",
        '"': "''",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "≈": r"$\approx$",
        "×": r"$\times$",
        "–": "--",
        "—": "---",
        "…": r"\dots{}",
    }
    special |= {character: "\\" + character for character in "&%$#_{}"}
    return "".join(special.get(character) or _printable(character) for character in text)


def _printable(character: str) -> str:
    """What pdflatex has without a package: Latin letters and Greek ones; anything else becomes a question mark."""
    name = unicodedata.name(character, "").split()
    if name[:3] == ["GREEK", "SMALL", "LETTER"] and len(name) == 4 and name[3] != "OMICRON":
        return rf"$\{'lambda' if name[3] == 'LAMDA' else name[3].lower()}$"
    return character if ord(character) < 0x180 else "?"
