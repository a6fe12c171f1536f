"""The board as an ASGI application: routes from addresses to pages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from star.errors import LedgerError, NotFoundError, StarError
from star_board import __name__ as package
from star_board.board import Board, address
from star_board.door import Door
from star_board.results import warm_up
from star_board.settings import Settings
from star_board.views import actions, experiments, jobs, overview, runs, searches

log = logging.getLogger(__name__)
View = Callable[[Board, Request], Response]
Change = Callable[[Board, Request, actions.Form], Response]
ONE = "/experiments/{name}/{profile}"
PAGES: tuple[tuple[str, View], ...] = (
    ("/", overview.overview),
    ("/queue", overview.queue),
    ("/failures", overview.failures),
    (ONE, experiments.experiment),
    (f"{ONE}/results", experiments.table),
    (f"{ONE}/cell", experiments.cell),
    (f"{ONE}/claims", experiments.claims_of),
    (f"{ONE}/figures/{{figure}}.png", experiments.figure),
    ("/claims", experiments.claims),
    ("/runs", runs.listed),
    ("/runs/{key}", runs.run),
    ("/runs/{key}/mlflow", runs.in_mlflow),
    ("/compare", runs.compare),
    ("/gallery", runs.gallery),
    ("/curves.json", runs.curve_data),
    ("/jobs/{key}", jobs.job),
    ("/jobs/{key}/log", jobs.log),
    ("/jobs/{key}/log.txt", jobs.whole_log),
    ("/jobs/{key}/attention.png", jobs.attention),
    ("/jobs/{key}/files/{name:path}", jobs.output),
    ("/searches", searches.searches),
    ("/searches/{name}/{profile}", searches.search),
    ("/searches/{name}/{profile}/points.json", searches.search_data),
    ("/start", actions.start),
    ("/ask/{verb}", actions.ask),
    ("/login", actions.login_page),
)
CHANGES: tuple[tuple[str, Change], ...] = (
    ("/do/{verb}", actions.do),
    ("/login", actions.login),
    ("/logout", actions.logout),
)


class _Static(StaticFiles):
    """Static files of the package; browsers must revalidate them."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(settings: Settings) -> Starlette:
    """Create the ASGI application of one home's board."""
    board = Board(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(board.live.look)  # so that the first page need not wait for it
        tasks = [asyncio.create_task(board.live.watch()), asyncio.create_task(run_in_threadpool(warm_up))]
        yield
        board.live.stopping = True
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def guarded(view: Callable[..., Response], request: Request, *form: actions.Form) -> Response:
        try:
            return view(board, request, *form)
        except StarError as error:
            status = 404 if isinstance(error, NotFoundError) else 503 if isinstance(error, LedgerError) else 400
            title = {404: "Not here", 503: "Not now"}.get(status, "That cannot be shown")
            return _problem(board, request, status, title, str(error))
        except Exception:
            log.exception("%s", request.url.path)
            text = "The board met something that it was not made for; its log has the details."
            return _problem(board, request, 500, "A fault of the board", text)

    def page(view: View) -> Callable[[Request], Response]:
        return lambda request: guarded(view, request)

    def change(view: Change) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=1000)
            except ValueError:
                return PlainTextResponse("The form has too many fields.\n", 413)
            return await run_in_threadpool(guarded, view, request, form)

        return endpoint

    async def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = "There is no such page." if error.status_code == 404 else str(error.detail)
        return _problem(board, request, error.status_code, str(error.detail), text)

    others: tuple[tuple[str, View], ...] = (("/find", find), ("/health", health))
    routes = [Route(path, page(view), methods=["GET"]) for path, view in (*PAGES, *others)]
    routes += [Route(path, change(view), methods=["POST"]) for path, view in CHANGES]
    routes.append(Route("/events", board.live.events, methods=["GET"]))
    mounts = [Mount("/static", _Static(packages=[(package, "static")]))]
    handlers: dict[Any, Any] = {HTTPException: missing}
    app = Starlette(
        routes=[*routes, *mounts],
        lifespan=lifespan,
        middleware=[Middleware(Door, settings=settings)],
        exception_handlers=handlers,
    )
    app.state.board = board
    return app


def find(board: Board, request: Request) -> Response:
    """Redirect `q` to the run or job whose key begins with it, else to the runs whose names contain its words."""
    wanted = request.query_params.get("q", "").strip()
    _, dash, end = wanted.rpartition("-")  # a job's folder is STAGE-KEY
    is_key = end.isalnum() and (not dash or len(end) >= 6)
    try:
        kind, key = board.model.ledger.resolve(wanted) if is_key else ("", "")
    except NotFoundError:
        kind = ""
    return RedirectResponse(address(f"{kind}s", key) if kind else address("runs", q=wanted), 303)


def health(board: Board, request: Request) -> Response:
    """Whether the ledger answers: 200, or 503 with why not."""
    board.live.look()
    if board.live.trouble:
        return JSONResponse({"ledger": board.live.trouble}, 503)
    return JSONResponse({"ledger": "answers", "runs": len(board.model.stages), "jobs": len(board.model.jobs)})


def _problem(board: Board, request: Request, status: int, title: str, message: str) -> Response:
    if request.url.path.endswith((".json", "/log")):
        return JSONResponse({"error": message}, status)
    return board.fresh(request, "problem.html", status, title=title, message=message)
