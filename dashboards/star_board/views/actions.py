"""Changes: after a confirmation page, each runs a command of `star-exp` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from star.errors import NotFoundError, StarError
from star.scheduler.job_actions import choose, with_all_made_from
from star_board.board import Board
from star_board.door import COOKIE, client_of

Form = dict[str, list[str]]
PATIENCE = 180
"""Seconds that a command may take; `cancel` waits until jobs have stopped."""
VERBS = {
    "retry": "Queue these jobs again",
    "cancel": "Cancel these jobs",
    "rerun": "Compute these jobs again, and all that was made from them",
    "run": "Run this experiment",
}
MEANING = {
    "retry": "Jobs that failed, were cancelled or got lost are queued. A scheduler that wants them goes on with them at once.",
    "cancel": "Queued jobs leave the queue; running ones stop: training saves its state first. What other runs need goes on.",
    "rerun": "What they had made is put aside, not removed.",
    "run": "A scheduler starts on the board's machine, and goes on when this page is closed.",
}
SHOWN, MOST = 50, 200
"""Most jobs that a confirmation page lists, and most keys that it takes."""


def start(board: Board, request: Request) -> Response:
    """Page of the experiment files that can be run from the board."""
    return board.fresh(request, "start.html", files=[(file, *_described(file)) for file in files_of(board)])


def files_of(board: Board) -> list[Path]:
    """YAML files of the experiments' folder, sorted by path."""
    return sorted(board.settings.experiments.glob("*.yaml"))


def _described(file: Path) -> tuple[str, str]:
    from star.spec.extends import read_extended

    try:
        value = read_extended(file).doc.value
        kind = "search" if "search" in value else "run"
        return kind, str(value.get("title", ""))
    except (StarError, OSError, AttributeError, TypeError) as error:
        return "", str(error)


def ask(board: Board, request: Request) -> Response:
    """Confirmation page before a change, with the jobs that it would affect.

    Raises:
        NotFoundError: the verb is unknown, or what it should act on is missing.
    """
    verb = request.path_params["verb"]
    keys = list(dict.fromkeys(request.query_params.getlist("key")))[:MOST]
    experiment = request.query_params.get("experiment") or None
    file = request.query_params.get("file", "")
    if verb not in VERBS:
        raise NotFoundError(f"{verb[:20]!r} is nothing that the board does.")
    jobs: list[Any] = []
    shared = 0
    if verb == "run":
        _file(board, file)
    elif not keys and not experiment:
        raise NotFoundError(f"{verb}: no job, run or experiment is named.")
    elif board.sessions.of(request) is not None:  # finding the jobs is expensive
        chosen = choose(board.model.ledger, keys, experiment, alone=verb == "cancel")
        if verb == "rerun":
            chosen.jobs = board.model.ledger.jobs.of(with_all_made_from(board.model.ledger, chosen.jobs))
        jobs, shared = sorted(chosen.jobs.values(), key=lambda job: job.created), len(chosen.shared)
        wanted = {
            "retry": ("failed", "cancelled", "lost"),
            "cancel": ("queued", "running"),
            "rerun": ("done",),
        }[verb]
        jobs = [job for job in jobs if job.state in wanted]
    return board.fresh(
        request,
        "ask.html",
        verb=verb,
        title=VERBS[verb],
        meaning=MEANING[verb],
        keys=keys,
        experiment=experiment,
        file=file,
        jobs=jobs[:SHOWN],
        more=max(0, len(jobs) - SHOWN),
        shared=shared,
        back=own_page(request.query_params.get("back", "/")),
    )


def do(board: Board, request: Request, form: Form) -> Response:
    """Run the command of a confirmed change, and answer with its output; 403 without the token.

    Raises:
        NotFoundError: the verb is unknown, or what it should act on is missing.
    """
    one = {name: values[0] for name, values in form.items()}
    if not board.sessions.may_change(request, one.get("form_key")):
        return board.fresh(
            request,
            "problem.html",
            403,
            title="Not allowed",
            message="Changing anything needs the board's token: sign in, then ask again. Nothing was changed.",
        )
    verb = request.path_params["verb"]
    if verb not in VERBS:
        raise NotFoundError(f"{verb[:20]!r} is nothing that the board does.")
    command = _command(board, verb, form.get("key", []), one.get("experiment"), one.get("file", ""))
    code, said = _run(command)
    if "text/html" not in request.headers.get("accept", "text/html"):
        return PlainTextResponse(said, 200 if code == 0 else 409)
    return board.fresh(
        request, "done.html", verb=verb, title=VERBS[verb], code=code, said=said, back=own_page(one.get("back", "/"))
    )


def _command(board: Board, verb: str, keys: list[str], experiment: str | None, file: str) -> list[str]:
    command = [sys.executable, "-m", "star.cli"]
    if verb == "run":
        where = ["--home", str(board.home.path), "--out", str(board.settings.out)]
        return [*command, "run", str(_file(board, file)), *where, "--plain", "--detach"]
    named = [f"--experiment={experiment}"] if experiment else []
    if any("\0" in one for one in (*keys, *named)):
        raise NotFoundError(f"{verb}: no key and no name has a null byte.")
    if not keys and not named:
        raise NotFoundError(f"{verb}: no job, run or experiment is named.")
    return [*command, verb, "--home", str(board.home.path), *named, "--", *keys]


def _run(command: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return 1, f"It has not ended after {PATIENCE} s; `star-exp status` shows what it did."
    return done.returncode, (done.stdout + done.stderr).strip()


def _file(board: Board, name: str) -> Path:
    """The experiment file with this name in the experiments' folder; nothing else can be run.

    Raises:
        NotFoundError: there is no such file, or it is no experiment that can be read.
    """
    found = next((file for file in files_of(board) if file.name == name), None)
    if found is None:
        raise NotFoundError(f"{name[:60]!r} is no experiment of the board's folder.")
    kind = _described(found)[0]
    if kind == "search":
        raise NotFoundError(f"{name[:60]} is a search, which the board does not start: `star-exp search {found}` does.")
    if kind != "run":
        raise NotFoundError(f"{name[:60]} is no experiment that can be read; `star-exp plan {found}` says why.")
    return found


def own_page(given: str) -> str:
    """Path to return to: `given` if it is a page of this board, else `/`."""
    plain = given.isprintable() and not set(given) & set(" \\")
    return given if plain and given.startswith("/") and not given.startswith(("//", "/\\")) else "/"


def login_page(board: Board, request: Request) -> Response:
    """The page on which the token is entered."""
    return board.fresh(request, "login.html", wrong="", back=own_page(request.query_params.get("back", "/")))


def login(board: Board, request: Request, form: Form) -> Response:
    """Check the token; if it is right, begin a session and redirect, else show the form again (403, or 429)."""
    back = own_page((form.get("back") or ["/"])[0])
    client = client_of(request)
    is_throttled = board.sessions.is_throttled(client)
    if not board.sessions.is_token((form.get("token") or [""])[0].strip(), client):
        if is_throttled:
            return board.fresh(request, "login.html", 429, wrong="Too many wrong tokens; wait a minute.", back=back)
        return board.fresh(request, "login.html", 403, wrong="That is not the board's token.", back=back)
    response = RedirectResponse(back, 303)
    board.sessions.begin(response, board.settings.https)
    return response


def logout(board: Board, request: Request, form: Form) -> Response:
    """Delete the session cookie, and redirect to the first page."""
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, path="/")
    return response
