"""Pages of an experiment: its rows, its table as it fills, the origin of a cell, its figures and claims."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from star.errors import LedgerError, NotFoundError
from star.report import claims_markup
from star.report.grid import cell_mark, interval_text, paper_mark, paper_name
from star.report.markup import ARROWS
from star.report.method import NAMES
from star.report.table import Cell, Table
from star.report.table import Row as TableRow
from star.rundir import read_json
from star.scheduler.explain import made_by
from star.scheduler.records import record_path
from star.spec.builtin import builtin_stages
from star.spec.points import EARLY
from star.spec.reporting import Column
from star_board.board import Board
from star_board.model import Group, Row
from star_board.results import Results, written
from star_board.views.overview import group_states, paged

SORTS: dict[str, Callable[[Row], Any]] = {
    "row": lambda row: 0,
    "state": lambda row: ("failed", "cancelled", "lost", "running", "waiting", "done").index(row.state),
    "seed": lambda row: row.seed,
    "changed": lambda row: -row.changed,
}
"""Sort keys of runs; `row` keeps the experiment's own order."""
OWN_SHOWN = 3
"""Most results of a stage of one's own in a list of runs."""


def experiment(board: Board, request: Request) -> Response:
    """Page of an experiment: its progress and runs; its results are loaded by `table`."""
    group = board.group(request)

    def make() -> dict[str, Any]:
        search = group.name.removesuffix(EARLY) if is_search(board, group) else None
        with board.model.lock:
            return {
                "group": group,
                "summary": board.model.summary(group),
                "states": group_states(group),
                "search": search,
                **run_list(board, request, group.rows),
            }

    return board.page(request, "experiment.html", make)


def run_list(board: Board, request: Request, rows: list[Row]) -> dict[str, Any]:
    """Values of the rows selected by the query's `q`, `state`, `sort` and `page`. The caller holds the model's lock."""
    query, state = request.query_params.get("q", "").strip(), request.query_params.get("state", "")
    sort = request.query_params.get("sort", "row")
    words = query.lower().split()

    def fits(row: Row) -> bool:
        text = f"{row.label} {row.run} {row.group.name} {row.group.profile} seed {row.seed}".lower()
        return state in ("", row.state) and all(word in text for word in words)

    found = [row for row in rows if fits(row)] if words or state else list(rows)
    names = _result_names(board, rows)
    if sort in SORTS and sort != "row":
        found.sort(key=SORTS[sort])
    elif sort.removeprefix("-") in names:
        name, sign = sort.removeprefix("-"), -1.0 if sort.startswith("-") else 1.0
        value = {id(row): result(board, row, name) for row in found}
        found.sort(key=lambda row: _place(value[id(row)], sign))
    part, pages = paged(found, request)
    shown = [
        {
            "row": row,
            "jobs": [(stage, board.model.jobs.get(key), key) for stage, key in row.jobs.items()],
            "results": [result(board, row, name) for name in names],
        }
        for row in part
    ]
    return {
        **pages,
        "q": query,
        "state": state,
        "sort": sort,
        "results": names,
        "runs": shown,
    }


def _result_names(board: Board, rows: list[Row]) -> list[str]:
    """`stage/metric` of the results that a list of runs shows: the platform's main ones, and those of stages of one's own."""
    known, there = builtin_stages(), dict.fromkeys(stage for row in rows for stage in row.jobs)
    names = [f"{stage.name}/{name}" for stage in known.values() if stage.name in there for name in stage.highlights]
    for stage in (stage for stage in there if stage not in known):
        jobs = (board.model.jobs.get(row.jobs.get(stage, "")) for row in rows)
        done = next((job for job in jobs if job is not None and job.state == "done"), None)
        found = board.curves.results(board.home.job(stage, done.key)) if done else {}
        names += [f"{stage}/{name}" for name in list(found)[:OWN_SHOWN]]
    return names


def _place(value: float | None, sign: float) -> tuple[bool, float]:
    """Sort key of a result: by value, and after all others where there is none or it is not finite."""
    return (True, 0.0) if value is None or not isfinite(value) else (False, sign * value)


def result(board: Board, row: Row, name: str) -> float | None:
    """The result `stage/metric` of a run, by whichever network it was scored; None if there is none."""
    stage, _, wanted = name.partition("/")
    key = row.jobs.get(stage)
    job = board.model.jobs.get(key or "")
    if key is None or job is None or job.state != "done":
        return None
    found = board.curves.results(board.home.job(stage, key))
    if stage not in builtin_stages():
        return found.get(wanted)
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
        difference = _difference(shown, cell, column)
        cells.append({"mark": mark, "opens": opens, "difference": difference, "paper": False})
        if column.published and column.metric:
            cells.append({"mark": paper_mark(column, cell), "opens": None, "difference": "", "paper": True})
    return {"label": row.label, "group": row.group, "cells": cells}


def _difference(shown: Table, cell: Cell, column: Column) -> str:
    """The difference to the table's first baseline, which the note below it names."""
    found = cell.differences.get(next(iter(shown.spec.baselines), ""))
    return interval_text(found.found, column.digits) if found else ""


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
        LedgerError: the results cannot be read.
    """
    group = board.group(request)
    label, title = request.query_params.get("row", ""), request.query_params.get("column", "")
    found = _results(board, group)
    row = found.row(label)
    shown = found.cell(row, title) if row else None
    if row is None or shown is None or shown.numbers is None:
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
        LedgerError: the results cannot be read.
    """
    group, name = board.group(request), request.path_params["figure"]
    picture = _results(board, group).figure(name)
    if picture is None:
        raise NotFoundError(f"{group.name}: nothing is measured yet of a figure {name[:40]!r}.")
    return Response(picture, media_type="image/png")


def claims(board: Board, request: Request) -> Response:
    """Page of the claims of all experiments; each experiment's are loaded by `claims_of`."""

    def make() -> dict[str, Any]:
        with board.model.lock:
            groups = list(board.model.groups.values())
        return {"groups": [group for group in groups if not is_search(board, group)]}

    return board.page(request, "claims.html", make)


def claims_of(board: Board, request: Request) -> Response:
    """The claims of one experiment, as a part of the page of all claims."""
    group = board.group(request)

    def make() -> dict[str, Any]:
        found = board.shelf.of(group)
        if isinstance(found, str):
            return {"group": group, "claims": [], "reason": found}
        return {"group": group, "claims": [claim(one) for one in found.judgements], "reason": ""}

    return board.page(request, "claims_of.html", make, numbers=True)


def _results(board: Board, group: Group) -> Results:
    found = board.shelf.of(group)
    if isinstance(found, str):
        raise LedgerError(f"{group.name}: {found}")
    return found


def is_search(board: Board, group: Group) -> bool:
    """Whether an experiment holds the trials of a search, as its record says."""
    path = record_path(board.home, *group.address)
    return _is_study(path, written(path))


@lru_cache(maxsize=4096)
def _is_study(record: Path, written: int) -> bool:
    try:
        return (read_json(record) or {}).get("study") is not None
    except OSError:  # another user's
        return False
