"""Grids as Markdown, LaTeX and HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from star.report.grid import Grid, Mark
from star.report.letters import LIGATURES, printed, sign

ARROWS = {"lower": "↓", "higher": "↑", None: ""}
LATEX_ARROWS = {"lower": r"$\downarrow$", "higher": r"$\uparrow$", None: ""}
MEANS_MORE = re.compile(r"([|*`\\\[\]$~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w))")
"""What Markdown would read as markup: emphasis, code, links, formulas, tags, entities, cells."""
BEGINS_MORE = re.compile(r"^(\d*)(#(?=#*\s)|[+-](?=\s)|(?<=\d)[.)](?=\s)|>)")
"""What Markdown would read as a heading, a quotation or a list at the start of a line."""
LONG_WORD = 20
"""Characters of the longest word that need not break."""
Link = Callable[[tuple[str, ...]], str]
"""A function from the keys of runs to the URL of a page that shows them."""


def markdown(grid: Grid) -> list[str]:
    """A grid as the lines of a GitHub Markdown table."""

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
    """Escape a text so that GitHub's Markdown shows it unchanged on one line; underscores in words need no escape."""
    line = re.sub(MEANS_MORE, r"\\\1", " ".join(text.split()))
    return re.sub(BEGINS_MORE, r"\1\\\2", line)


def latex_mark(mark: Mark, breaking: bool = False) -> str:
    """A cell as LaTeX.

    Args:
        breaking: whether long words may break; such a text is not underlined.
    """
    if mark.latex is not None:
        return mark.latex
    text = escaped(mark.text, breaking)
    if text and mark.bold:
        text = rf"\textbf{{{text}}}"
    elif text and mark.underlined:
        text = text if breaking else rf"\underline{{{text}}}"  # LaTeX cannot break underlined text
    elif text and mark.italic:
        text = rf"\textit{{{text}}}"
    return text + escaped(mark.after, breaking)


def html(grid: Grid, link: Link) -> list[str]:
    """A grid as the lines of an HTML table; a measured cell links to its runs and shows its values as a tooltip."""

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


def escaped(text: str, breaking: bool = False) -> str:
    """Escape a text for LaTeX, on one line: an empty one would end the paragraph, and a comment ends with its line.

    Args:
        breaking: whether words longer than LONG_WORD may break at any letter.
    """
    text = re.sub(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*", " ", text)
    if breaking:
        words = [part for part in re.split(r"(\s+)", text) if part]
        return "".join(_breakable(word) if printed(word) > LONG_WORD else escaped(word) for word in words)
    parts = LIGATURES.split(text)  # between signs that TeX would draw as one
    ends = [found[0] for found in LIGATURES.finditer(text)]
    return "{}".join("".join(map(sign, part + end)) for part, end in zip(parts, [*ends, ""], strict=True))


def _breakable(word: str) -> str:
    return r"\allowbreak{}".join(escaped(letter) for letter in word)
