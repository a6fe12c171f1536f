"""Pages of searches: Optuna's trials as history, slices, importances, front and list."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from star.errors import LedgerError, NotFoundError
from star_board.board import Board
from star_board.views.overview import paged

if TYPE_CHECKING:  # Optuna takes a second to import
    from optuna.trial import FrozenTrial

    from star.search.browse import StudyView

SHOWN = 2000
"""Most points of a chart, which are the newest."""


def searches(board: Board, request: Request) -> Response:
    """Page of all studies of the home."""

    def make() -> dict[str, Any]:
        from star.search.browse import studies

        try:
            found, reason = studies(board.home), ""
        except LedgerError as error:
            found, reason = [], str(error)
        return {"found": found, "reason": reason}

    return board.page(request, "searches.html", make, numbers=True)


def search(board: Board, request: Request) -> Response:
    """Page of one study."""
    name, profile = request.path_params["name"], request.path_params["profile"]
    study = _study(board, request)

    def make() -> dict[str, Any]:
        with board.model.lock:
            group = board.model.groups.get((name, profile))
            summary = board.model.summary(group) if group else None
        trials, pages = paged(list(reversed(study.trials)), request)
        return {
            "study": study,
            "name": name,
            "profile": profile,
            "group": group,
            "summary": summary,
            "importances": study.importances(),
            "names": _names(study.parameters),
            "drawn": [name for name in study.parameters if any(name in trial.params for trial in study.trials)],
            "trials": trials,
            **pages,
        }

    return board.page(request, "search.html", make, numbers=True)


def search_data(board: Board, request: Request) -> Response:
    """Points for charts as JSON: `history`, `front`, or `slice` of one parameter."""
    study, kind = _study(board, request), request.query_params.get("kind", "")
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"][-SHOWN:]
    title = study.objectives[0].title
    if kind == "front" and len(study.objectives) > 1:
        done = [trial for trial in done if isfinite(trial.values[0])]
        x, front = [trial.values[0] for trial in done], set(study.front())
        sides = (("beaten in both", False), ("Pareto front", True))
        series = [
            {"label": label, "y": [t.values[1] if (t.number in front) is inside else None for t in done]}
            for label, inside in sides
        ]
        return JSONResponse(_sorted({"x": x, "series": series, "step": title, "metric": study.objectives[1].title}))
    if kind == "slice":
        name = request.query_params.get("parameter", "")
        there = [trial for trial in done if name in trial.params]
        choices = _choices(there, name)
        x = [choices.index(t.params[name]) if choices else t.params[name] for t in there]
        points = {"x": x, "series": [{"label": title, "y": [t.values[0] for t in there]}]}
        is_log = bool(there) and bool(getattr(there[0].distributions[name], "log", False))
        texts = [json.dumps(one) if isinstance(one, bool) or one is None else str(one) for one in choices]
        return JSONResponse(_sorted(points | {"step": name, "metric": title, "log": is_log, "choices": texts}))
    return JSONResponse(finite(_history(study, done)) | {"step": "trial", "metric": title})


def _choices(trials: list[FrozenTrial], name: str) -> list[Any]:
    """The choices of a parameter, those of the newest trial first; none if all of them are finite numbers."""
    found: list[Any] = []
    for trial in reversed(trials):
        for one in getattr(trial.distributions[name], "choices", (trial.params[name],)):
            if not any(one is other or (type(one) is type(other) and one == other) for other in found):
                found.append(one)
    numbers = [one for one in found if isinstance(one, int | float) and not isinstance(one, bool) and isfinite(one)]
    return [] if len(numbers) == len(found) else found


def _names(parameters: list[str]) -> dict[str, str]:
    """Each parameter's shortest end that no other has, for the head of a column."""
    found = {}
    for path in parameters:
        parts = path.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [f".{other}" for other in parameters if other != path]
        found[path] = next((end for end in ends if not any(o.endswith(f".{end}") for o in others)), path)
    return found


def _history(study: StudyView, done: list[FrozenTrial]) -> dict[str, Any]:
    """Values of complete trials, the best so far, and the last values of trials that were ended early."""
    early = [trial for trial in study.trials if trial.state.name == "PRUNED" and trial.intermediate_values][-SHOWN:]
    numbers = sorted(trial.number for trial in (*done, *early))
    complete = {trial.number: trial.values[0] for trial in done}
    last = {trial.number: trial.intermediate_values[max(trial.intermediate_values)] for trial in early}
    best: float | None = None
    so_far = []
    for number in numbers:
        if number in complete:
            best = complete[number] if best is None else study.better(best, complete[number])
        so_far.append(best)
    series: list[dict[str, Any]] = [{"label": "complete", "y": [complete.get(number) for number in numbers]}]
    if last:
        series.append({"label": "ended early, at its last step", "y": [last.get(number) for number in numbers]})
    return {"x": numbers, "series": [*series, {"label": "best so far", "y": so_far, "line": True}]}


def finite(points: dict[str, Any]) -> dict[str, Any]:
    """Points with None for values that are not finite, which JSON does not have."""
    series = [{**one, "y": [y if y is None or isfinite(y) else None for y in one["y"]]} for one in points["series"]]
    return points | {"series": series}


def _sorted(points: dict[str, Any]) -> dict[str, Any]:
    """Points sorted by x, as charts need them, with None for values that are not finite."""
    order = sorted(range(len(points["x"])), key=points["x"].__getitem__)
    series = [{**one, "y": [one["y"][i] for i in order]} for one in points["series"]]
    return finite(points | {"x": [points["x"][i] for i in order], "series": series})


def _study(board: Board, request: Request) -> StudyView:
    from star.search.browse import read_study

    name, profile = request.path_params["name"], request.path_params["profile"]
    found = read_study(board.home, f"{name}@{profile}")
    if found is None:
        raise NotFoundError(f"There is no search {name[:60]} at profile {profile[:60]} in this home.")
    return found
