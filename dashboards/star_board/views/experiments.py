"""Pages of an experiment: its rows, its table as it fills, the origin of a cell, its figures and claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from star.errors import NotFoundError
from star.report import claims_markup
from star.report.grid import cell_mark, interval_text, paper_mark, paper_name
from star.report.markup import ARROWS
from star.report.method import NAMES
from star.report.table import Cell, Table
from star.report.table import Row as TableRow
from star.scheduler.explain import made_by
from star.spec.builtin import builtin_stages
from star.spec.points import EARLY
from star.spec.reporting import Column
from star_board.board import ROWS, Board
from star_board.model import Group, Row
from star_board.results import Results
from star_board.views.overview import group_states, page_of, paged

SORTS: dict[str, Callable[[Row], Any]] = {
    "row": lambda row: 0,
    "state": lambda row: ("failed", "cancelled", "lost", "running", "waiting", "done").index(row.state),
    "seed": lambda row: row.seed,
    "changed": lambda row: -row.changed,
}
"""Sort keys of runs; `row` keeps the experiment's own order."""


def experiment(board: Board, request: Request) -> Response:
    """Page of an experiment: its progress and runs; its results are loaded by `table`."""
    group = board.group(request)

    def make() -> dict[str, Any]:
        with board.model.lock:
            return {
                "group": group,
                "summary": board.model.summary(group),
                "states": group_states(group),
                "search": group.name.removesuffix(EARLY) if is_search(group) else None,
                **run_list(board, request, group.rows),
            }

    return board.page(request, "experiment.html", make)


def run_list(board: Board, request: Request, rows: list[Row]) -> dict[str, Any]:
    """Values of the rows selected by the query's `q`, `state`, `sort` and `page`. The caller holds the model's lock."""
    query, state = request.query_params.get("q", "").strip(), request.query_params.get("state", "")
    sort, page = request.query_params.get("sort", "row"), page_of(request)
    words = query.lower().split()

    def fits(row: Row) -> bool:
        text = f"{row.label} {row.run} {row.group.name} {row.group.profile} seed {row.seed}".lower()
        return state in ("", row.state) and all(word in text for word in words)

    found = [row for row in rows if fits(row)] if words or state else list(rows)
    names = [f"{stage.name}/{name}" for stage in builtin_stages().values() for name in stage.highlights]
    if sort in SORTS and sort != "row":
        found.sort(key=SORTS[sort])
    elif sort.removeprefix("-") in names:
        name, sign = sort.removeprefix("-"), -1.0 if sort.startswith("-") else 1.0
        value = {id(row): result(board, row, name) for row in found}
        found.sort(key=lambda row: (value[id(row)] is None, sign * (value[id(row)] or 0.0)))
    part = found[(page - 1) * ROWS : page * ROWS]
    shown = [
        {
            "row": row,
            "jobs": [(stage, board.model.jobs.get(key), key) for stage, key in row.jobs.items()],
            "results": [result(board, row, name) for name in names],
        }
        for row in part
    ]
    return {
        **paged(found, page),
        "q": query,
        "state": state,
        "sort": sort,
        "results": names,
        "runs": shown,
    }


def result(board: Board, row: Row, name: str) -> float | None:
    """The result `stage/metric` of a run, by whichever network it was scored; None if there is none."""
    stage, wanted = name.split("/")
    key = row.jobs.get(stage)
    job = board.model.jobs.get(key or "")
    if key is None or job is None or job.state != "done":
        return None
    found = board.curves.results(board.home.job(stage, key))
    return next((value for known, value in found.items() if known.rpartition("/")[2] == wanted), None)


def table(board: Board, request: Request) -> Response:
    """An experiment's results, loaded after its page because reading them may take a second."""
    group = board.group(request)

    def make() -> dict[str, Any]:
        found = board.shelf.of(group)
        if isinstance(found, str):
            return {"group": group, "reason": found, "results": None}
        shown, file = found.table, Path(found.experiment.file)
        return {
            "group": group,
            "reason": "",
            "results": found,
            "file": file.name if file.parent == board.settings.experiments.resolve() else None,
            "heads": heads(shown) if shown else [],
            "rows": [_row(shown, row) for row in shown.rows] if shown else [],
            "limits": _limits(shown) if shown else [],
            "claims": [claim(one) for one in found.judgements],
            "agreement": claims_markup.agreement_text(found.agreement),
            "rejudged": claims_markup.rejudged_text(found.evidence.rejudged),
            "interval": NAMES[found.experiment.spec.interval],
            "figures": found.experiment.spec.figures,
        }

    return board.page(request, "results.html", make, numbers=True)


def heads(shown: Table) -> list[dict[str, Any]]:
    """Heads of a table's columns, with each published column after the measured one."""
    found = []
    for column in shown.columns:
        arrow = ARROWS[column.better]
        found.append({"title": column.title + arrow, "numeric": column.metric is not None, "paper": False})
        if column.published and column.metric:
            found.append({"title": f"paper {paper_name(column.published)}", "numeric": True, "paper": True})
    return found


def _limits(shown: Table) -> list[list[str]]:
    """Lines below a table, what its numbers are to be read by: a text for each head, words first."""
    lines = []
    for words, texts in shown.limits:
        cells: list[str] = []
        for column, text in zip(shown.columns, texts, strict=True):
            cells += [text, *([""] if column.published and column.metric else [])]
        lines.append([words, *cells[1:]])
    return lines


def _row(shown: Table, row: TableRow) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    for column, cell in zip(shown.columns, row.cells, strict=True):
        mark = cell_mark(shown, row, column, cell)
        opens = column.title if cell.numbers is not None else None
        cells.append({"mark": mark, "opens": opens, "difference": _difference(cell, column), "paper": False})
        if column.published and column.metric:
            cells.append({"mark": paper_mark(column, cell), "opens": None, "difference": "", "paper": True})
    return {"label": row.label, "group": row.group, "cells": cells}


def _difference(cell: Cell, column: Column) -> str:
    return next((interval_text(one.found, column.digits) for one in cell.differences.values()), "")


def claim(one: Any) -> dict[str, Any]:
    """Template values of a claim: its verdict, and what that rests on."""
    told = claims_markup.told(one)
    return {
        "claim": one.claim,
        "text": one.text,
        "verdict": one.verdict,
        "count": one.counts,
        "told": told,
        "note": one.note,
    }


def cell(board: Board, request: Request) -> Response:
    """Page of one cell of the table: its seeds, runs, jobs, code, samples, and published value.

    Raises:
        NotFoundError: there is no such measured cell.
    """
    group = board.group(request)
    label, title = request.query_params.get("row", ""), request.query_params.get("column", "")
    found = board.shelf.of(group)
    row = found.row(label) if isinstance(found, Results) else None
    shown = found.cell(row, title) if isinstance(found, Results) and row else None
    if not isinstance(found, Results) or row is None or shown is None or shown.numbers is None:
        raise NotFoundError(f"{group.name} has no measured cell in row {label[:60]!r} under {title[:60]!r}.")
    assert found.table is not None
    numbers, column = shown.numbers, next(one for one in found.table.columns if one.title == title)

    def make() -> dict[str, Any]:
        rows = {row.seed: row for row in group.rows if row.label == label}
        seeds = []
        for source in numbers.sources:
            jobs = [(stage, key, board.model.jobs.get(key)) for stage, key in source.stages.items()]
            seeds.append({"source": source, "value": source.value * shown.scale, "jobs": jobs})
        missing = [(seed, why, rows.get(seed)) for seed, why in numbers.missing.items()]
        pictures = [(row.seed, made) for row in rows.values() if (made := board.drawn_from(row.jobs, "samples"))]
        return {
            "group": group,
            "label": label,
            "title": title,
            "mark": cell_mark(found.table, row, column, shown),  # type: ignore[arg-type]
            "column": column,
            "published": shown.published,
            "differences": {
                baseline: interval_text(one.found, column.digits) for baseline, one in shown.differences.items()
            },
            "seeds": seeds,
            "missing": missing,
            "pictures": pictures,
            "code": made_by(board.home, [list(one.stages.items())[-1] for one in numbers.sources if one.stages]),
        }

    return board.page(request, "cell.html", make, numbers=True)


def figure(board: Board, request: Request) -> Response:
    """A figure as PNG.

    Raises:
        NotFoundError: there is no such figure, or nothing is measured yet.
    """
    group, name = board.group(request), request.path_params["figure"]
    found = board.shelf.of(group)
    picture = found.figure(name) if isinstance(found, Results) else None
    if picture is None:
        raise NotFoundError(f"{group.name}: nothing is measured yet of a figure {name[:40]!r}.")
    return Response(picture, media_type="image/png")


def claims(board: Board, request: Request) -> Response:
    """Page of the claims of all experiments; each experiment's are loaded by `claims_of`."""

    def make() -> dict[str, Any]:
        with board.model.lock:
            groups = [group for group in board.model.groups.values() if not is_search(group)]
        return {"groups": groups}

    return board.page(request, "claims.html", make)


def claims_of(board: Board, request: Request) -> Response:
    """The claims of one experiment, as a part of the page of all claims."""
    group = board.group(request)

    def make() -> dict[str, Any]:
        found = board.shelf.of(group)
        judgements = found.judgements if isinstance(found, Results) else []
        return {"group": group, "claims": [claim(one) for one in judgements]}

    return board.page(request, "claims_of.html", make, numbers=True)


def is_search(group: Group) -> bool:
    """Whether an experiment holds the trials of a search, by the label of its first row."""
    return bool(group.rows) and group.rows[0].label.startswith("trial ")
