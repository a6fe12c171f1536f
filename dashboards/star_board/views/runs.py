"""Pages of runs: lists, one run, several compared, their curves and samples."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from star.errors import NotFoundError
from star.ledger.states import RunRow
from star.spec.builtin import builtin_stages
from star.spec.diff import ABSENT
from star.spec.graph import curve_names
from star.spec.own_stages import recorded_stages
from star.tracking.writer import flattened
from star_board.board import Board, address
from star_board.curves import together
from star_board.views.experiments import run_list

MOST = 12
"""Most runs that are compared at a time."""


def listed(board: Board, request: Request) -> Response:
    """Page of all runs of all experiments."""

    def make() -> dict[str, Any]:
        with board.model.lock:
            rows = [row for group in board.model.groups.values() for row in group.rows]
            return run_list(board, request, rows)

    return board.page(request, "runs.html", make)


def run(board: Board, request: Request) -> Response:
    """Page of one run: stages, curves, samples, attention, spec."""
    known = _runs(board, [request.path_params["key"]])[0]

    def make() -> dict[str, Any]:
        with board.model.lock:
            jobs = [(stage, key, board.model.jobs.get(key)) for stage, key in known.stages.items()]
            used = board.model.rows_of_run.get(known.key, [])
        return {
            "run": known,
            "jobs": jobs,
            "used": used,
            "charts": charts(board, [known]),
            "results": _results(board, known),
            "samples": board.drawn_from(known.stages, "samples"),
            "attention": board.drawn_from(known.stages, "attention"),
            "spec": sorted(flattened(known.spec).items()),
            "is_live": any(job is not None and job.state in ("running", "queued") for _, _, job in jobs),
        }

    return board.page(request, "run.html", make)


def compare(board: Board, request: Request) -> Response:
    """Page that compares up to MOST runs: curves, differences of their specs, results, samples."""
    keys = _keys(request)
    known = _runs(board, keys[:MOST])

    def make() -> dict[str, Any]:
        flat = [flattened(one.spec) for one in known]
        paths = sorted({path for spec in flat for path in spec})
        differ = [(path, [spec.get(path, ABSENT) for spec in flat]) for path in paths]
        results = [_results(board, one) for one in known]
        names = list(dict.fromkeys(name for found in results for name in found))
        with board.model.lock:
            used = {one.key: board.model.rows_of_run.get(one.key, []) for one in known}
        return {
            "known": known,
            "chosen": len(keys),
            "used": used,
            "charts": charts(board, known),
            "spec": [(path, values) for path, values in differ if len({repr(value) for value in values}) > 1],
            "results": [(name, [found.get(name) for found in results]) for name in names],
            "samples": [(one, made) for one in known if (made := board.drawn_from(one.stages, "samples"))],
        }

    return board.page(request, "compare.html", make)


def gallery(board: Board, request: Request) -> Response:
    """Page of samples of up to MOST runs beside each other, of all classes or one."""
    wanted, chosen = request.query_params.get("experiment", ""), request.query_params.get("class", "")
    board.live.look()

    def make() -> dict[str, Any]:
        with board.model.lock:
            groups = {address("experiments", *one.address): one for one in board.model.groups.values()}
            group = groups.get(wanted)
            keys = list(dict.fromkeys(row.run for row in group.rows)) if group else _keys(request)
        stages = board.model.ledger.runs.stages() if keys else {}
        found = [(key, made) for key in keys if (made := board.drawn_from(stages.get(key, {}), "samples"))]
        chosen_keys = [key for key, _ in found[:MOST]]  # of these alone: specs are large
        known = board.model.ledger.runs.of(chosen_keys) if chosen_keys else {}  # an empty home has no ledger
        shown = [(known[key], made) for key, made in found[:MOST]]
        return {
            "groups": groups,
            "group": group,
            "shown": shown,
            "hidden": len(found) - len(shown),
            "keys": [] if group else keys,
            "chosen": chosen,
            "classes": min(10, max((classes_of(one) for one, _ in shown[:1]), default=0)),
        }

    return board.page(request, "gallery.html", make)


def _keys(request: Request) -> list[str]:
    """The runs that a query chooses, each once."""
    return list(dict.fromkeys(key for key in request.query_params.getlist("run") if key))


def classes_of(known: RunRow) -> int:
    """How many classes a run's data has."""
    return int(known.spec.get("data", {}).get("num_classes", 0))


def curve_data(board: Board, request: Request) -> Response:
    """A curve of several runs as JSON: `x`, `series`, `metric`, and `step` (what a step counts).

    Raises:
        NotFoundError: there is no such run or curve.
    """
    metric = request.query_params.get("metric", "")
    known = _runs(board, request.query_params.getlist("run")[:MOST])
    steps = _curves_of(known)
    if metric not in steps:
        raise NotFoundError(f"{metric[:60]!r} is no curve; those that there are: {', '.join(steps)}.")
    stage, name = metric.split("/", 1)
    found = {}
    for one in known:
        # one that lacks the stage keeps its place, and with it its colour
        folder = board.home.job(stage, one.stages[stage]) if stage in one.stages else None
        found[_label(one, known)] = board.curves.of(folder).get(name, {}) if folder else {}
    return JSONResponse(together(found) | {"step": steps[metric], "metric": metric})


def in_mlflow(board: Board, request: Request) -> Response:
    """Redirect to MLflow's own page of a run; MLflow's store is read for the experiment that holds it.

    Raises:
        NotFoundError: there is no such run, MLflow does not hold it yet, or `mlflow_ui` is not set.
    """
    known = _runs(board, [request.path_params["key"]])[0]
    found = board.shelf.reader().runs({known.key: known.tracking_id}).get(known.key)
    if found is None or not board.settings.mlflow_ui:
        raise NotFoundError(f"MLflow holds nothing of run {known.key} yet.")
    base = board.settings.mlflow_ui.rstrip("/")
    return RedirectResponse(f"{base}/#/experiments/{found.experiment_id}/runs/{found.id}", 303)


def _label(one: RunRow, known: list[RunRow]) -> str:
    same = [other.key for other in known if other.label == one.label]
    return one.label if len(same) == 1 else f"{one.label} ({one.key[:6]})"


def charts(board: Board, known: list[RunRow]) -> list[dict[str, Any]]:
    """Curves that at least one of these runs has, those of the stages' charts first."""
    found: set[str] = set()
    first = [f"{stage.name}/{name}" for stage in builtin_stages().values() for name in stage.charts]
    for one in known:
        declared = set(one.spec.get("stages") or {})
        for stage in ({name.split("/")[0] for name in first} | declared) & one.stages.keys():
            folder = board.home.job(stage, one.stages[stage])
            found |= {f"{stage}/{name}" for name in board.curves.of(folder)}
    order = [*first, *sorted(found - set(first))]
    steps = _curves_of(known)
    return [
        {"metric": name, "step": steps[name], "more": name not in first}
        for name in order
        if name in found and name in steps
    ]


def _curves_of(known: list[RunRow]) -> dict[str, str]:
    """Every curve that these runs may have -> what its steps count."""
    found = curve_names(builtin_stages())
    for one in known:
        found |= curve_names(recorded_stages(one.spec))
    return found


def _results(board: Board, known: RunRow) -> dict[str, float]:
    found = {}
    for stage, key in known.stages.items():
        for name, value in board.curves.results(board.home.job(stage, key)).items():
            found[f"{stage}/{name}"] = value
    return found


def _runs(board: Board, keys: list[str]) -> list[RunRow]:
    board.live.look()
    known = board.model.ledger.runs.of(keys)
    missing = [key for key in keys if key not in known]
    if missing:
        raise NotFoundError(f"There is no run {missing[0][:40]} in this home.")
    return [known[key] for key in keys]
