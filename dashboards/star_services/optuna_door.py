"""`python -m star_services.optuna_door`: the board's door before optuna-dashboard, which has none and can change and delete studies.

Whoever has signed in on the board (the same host, the same token) is let through; everybody else is sent there. Its own page needs a policy
that is laxer than the board's (`unsafe-eval`), which is why it has an address of its own.
"""

from __future__ import annotations

import argparse
import http.client
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from star_board.door import Door, Sessions
from star_board.settings import Settings, read_token

PATIENCE = 60.0
LARGEST = 16 * 2**20
"""Most bytes of an answer: a study of 10,000 trials has two million."""
KEPT = ("content-type", "cache-control", "etag", "last-modified")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'"
)
METHODS = ["GET", "POST", "PUT", "DELETE"]


def create_door(upstream: str, board: str, settings: Settings) -> Starlette:
    """The door as an ASGI application, which passes requests of signed-in viewers on to optuna-dashboard.

    Args:
        upstream: optuna-dashboard's address, such as http://optuna:8080.
        board: the board's address for browsers, where viewers sign in.
    """
    sessions, target = Sessions(settings.token), urlsplit(upstream)
    assert target.hostname is not None

    def ask(method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> Response:
        connection = http.client.HTTPConnection(str(target.hostname), target.port or 80, timeout=PATIENCE)
        try:
            connection.request(method, path, body or None, dict(headers))
            answer = connection.getresponse()
            content = answer.read(LARGEST + 1)
        except (OSError, http.client.HTTPException) as error:
            return PlainTextResponse(f"optuna-dashboard does not answer: {error}\n", 502)
        finally:
            connection.close()
        if len(content) > LARGEST:
            return PlainTextResponse("This study is too large for optuna-dashboard; the board shows it.\n", 502)
        kept = {name: value for name, value in answer.getheaders() if name.lower() in KEPT}
        location = answer.getheader("location")
        if location is not None:  # redirect only within optuna-dashboard
            kept["Location"] = urlsplit(location)._replace(scheme="", netloc="").geturl()
        return Response(content, answer.status, kept)

    async def pass_on(request: Request) -> Response:
        if sessions.of(request) is None:
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                return RedirectResponse(f"{board.rstrip('/')}/login", 303)
            return PlainTextResponse("Sign in on the board first.\n", 401)
        path = quote(request.scope["path"]) + (f"?{request.url.query}" if request.url.query else "")
        kept = [(name, request.headers[name]) for name in ("content-type", "accept") if name in request.headers]
        return await run_in_threadpool(ask, request.method, path, kept, await request.body())

    async def health(request: Request) -> Response:
        return await run_in_threadpool(ask, "GET", "/api/studies", [], b"")

    async def probe(request: Request) -> Response:
        found = await health(request)
        return PlainTextResponse(
            "optuna-dashboard answers\n" if found.status_code == 200 else "it does not\n", found.status_code
        )

    return Starlette(
        routes=[Route("/door-health", probe), Route("/{path:path}", pass_on, methods=METHODS)],
        middleware=[Middleware(Door, settings=settings, policy=POLICY)],
    )


def main(serve: Callable[..., None] = uvicorn.run) -> None:
    """Run the command: parse the options and serve the door."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--board", required=True, help="where browsers sign in")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8091)
    parser.add_argument("--allow-host", action="append", default=[])
    parser.add_argument("--token-file", type=Path, required=True)
    options = parser.parse_args()
    token = read_token(options.token_file, None)
    settings = Settings(Path(), "", token, (*options.allow_host, options.host))
    app = create_door(options.upstream, options.board, settings)
    serve(app, host=options.host, port=options.port, log_level="warning", access_log=False, server_header=False)


if __name__ == "__main__":
    main()
