"""A table as Markdown, LaTeX and CSV, and the file that says where each number came from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from star.report import curves
from star.report.table import Cell, Table
from star.rundir import write_bytes
from star.spec.experiment import Column

ARROWS = {"lower": "↓", "higher": "↑", None: ""}


def write(table: Table, folder: Path) -> Iterator[Path]:
    """Write all files of a table into `folder`; yields their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _write_pictures(table, folder)
    texts = {
        "table.md": markdown(table, pictures),
        "table.tex": latex(table),
        "table.csv": comma_separated(table),
        "provenance.json": provenance(table),
    }
    if table.curves:
        texts["curves.csv"] = curves.comma_separated(table.curves)
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
        yield folder / name


def markdown(table: Table, pictures: dict[str, str] | None = None) -> str:
    """GitHub Markdown: the table, its notes, a sample grid for each row."""
    head, lines = _head(table.columns, lambda column: column.title + ARROWS[column.better], "paper {}"), []
    for row in table.rows:
        cells = _cells(table.columns, row, lambda text: f"**{text}**", " ± ", lambda text: text.replace("|", "\\|"))
        lines.append("| " + " | ".join(cells) + " |")
    divider = "|" + "|".join("---" if not number else "---:" for number in _numeric(table.columns)) + "|"
    text = [f"# {table.experiment.spec.title}", "", "| " + " | ".join(head) + " |", divider, *lines, ""]
    text += [f"{note}  " for note in table.notes]
    text += curves.markdown(table.curves)
    for label, name in (pictures or {}).items():
        text += ["", f"{label}, samples of the first seed, a class in each row:", "", f"![samples, {label}]({name})"]
    return "\n".join(text) + "\n"


def latex(table: Table) -> str:
    """A `table` environment; it needs \\usepackage{booktabs}."""
    arrows = {"lower": r"$\downarrow$", "higher": r"$\uparrow$", None: ""}
    head = _head(
        table.columns,
        lambda column: (column.latex or escaped(column.title)) + arrows[column.better],
        r"\textit{{paper {}}}",
    )
    lines = [
        " & ".join(_cells(table.columns, row, lambda text: rf"\textbf{{{text}}}", r" $\pm$ ", escaped)) + r" \\"
        for row in table.rows
    ]
    spec = "".join("r" if number else "l" for number in _numeric(table.columns))
    notes = " ".join(escaped(note) for note in table.notes)
    return (
        "\n".join(
            [
                r"% \usepackage{booktabs}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{escaped(table.experiment.spec.table.caption)}}}",
                rf"\begin{{tabular}}{{{spec}}}",
                r"\toprule",
                " & ".join(head) + r" \\",
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}",
                r"\end{table}",
            ]
        )
        + "\n"
    )


def comma_separated(table: Table) -> str:
    """One line per row; mean, spread, number of seeds, state and published value of each metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["row"]
    for column in table.columns:
        name = column.title
        head += (
            [name]
            if column.metric is None
            else [name, f"{name} std", f"{name} n", f"{name} state", *([f"{name} paper"] if column.published else [])]
        )
    writer.writerow(head)
    for label, row in zip(table.labels, table.rows, strict=True):
        line: list[object] = [label]
        for column, cell in zip(table.columns, row, strict=True):
            if column.metric is None:
                line.append(cell.text)
                continue
            line += [
                cell.mean,
                cell.spread,
                len(cell.sources),
                cell.state or "done",
                *([cell.published] if column.published else []),
            ]
        writer.writerow(line)
    return buffer.getvalue()


def provenance(table: Table) -> str:
    """JSON: for each measured cell the runs, keys and code it came from."""
    cells = [
        {
            "row": label,
            "column": column.title,
            "sources": [asdict(source) for source in cell.sources],
            "missing": cell.state or None,
        }
        for label, row in zip(table.labels, table.rows, strict=True)
        for column, cell in zip(table.columns, row, strict=True)
        if column.metric is not None
    ]
    return (
        json.dumps({"experiment": table.experiment.name, "profile": table.experiment.profile, "cells": cells}, indent=1)
        + "\n"
    )


def escaped(text: str) -> str:
    """Plain text for LaTeX."""
    special = {
        "\\": r"\textbackslash{}",
        "✓": r"$\checkmark$",
        "±": r"$\pm$",
        "“": "``",
        "”": "''",
        "†": r"$\dagger$",
        "·": r"$\cdot$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    special |= {character: "\\" + character for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text).replace(r"$\checkmark$", r"$\surd$")


def _head(columns: list[Column], title: Callable[[Column], str], paper: str) -> list[str]:
    head = []
    for column in columns:
        head.append(title(column))
        if column.published:
            head.append(
                paper.format(
                    column.published.replace("_", " ").upper()
                    if len(column.published) <= 4
                    else column.published.replace("_", " ")
                )
            )
    return head


def _numeric(columns: list[Column]) -> list[bool]:
    return [flag for column in columns for flag in ([column.metric is not None] + [True] * bool(column.published))]


def _cells(
    columns: list[Column], row: list[Cell], bold: Callable[[str], str], plus_minus: str, plain: Callable[[str], str]
) -> list[str]:
    cells = []
    for column, cell in zip(columns, row, strict=True):
        cells.append(
            plain(cell.text or "") if column.metric is None else _number(column, cell, bold, plus_minus, plain)
        )
        if column.published:
            cells.append("" if cell.published is None else f"{cell.published:.2f}")
    return cells


def _number(
    column: Column, cell: Cell, bold: Callable[[str], str], plus_minus: str, plain: Callable[[str], str]
) -> str:
    if cell.mean is None:
        return plain(f"({cell.state})")
    text = f"{cell.mean:.{column.digits}f}"
    text = bold(text) if cell.best else text
    if cell.spread is not None:
        text += f"{plus_minus}{cell.spread:.{column.digits}f}"
    if len(cell.sources) < cell.seeds:
        text += plain(f" ({len(cell.sources)} of {cell.seeds} seeds; {cell.state})")
    return text


def _write_pictures(table: Table, folder: Path) -> dict[str, str]:
    names = {}
    for i, (label, picture) in enumerate(table.pictures.items()):
        names[label] = f"samples-{i}.png"
        write_bytes(folder / names[label], picture)
    return names
