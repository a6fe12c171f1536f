"""Pages of one job: history of its attempts, numbers, provenance, files, and its log as it grows."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from star.errors import NotFoundError
from star.rundir import read_json
from star.scheduler.declared import stage_of
from star.scheduler.policies import advice
from star.spec.builtin import builtin_stages
from star.spec.graph import Stage
from star.tracking.writer import flattened
from star_board.board import Board
from star_board.results import attention_picture
from star_board.views.overview import declared_of, describe, last_lines

CHUNK = 128 * 1024
"""Most bytes of a log in one answer."""
CONTROL = re.compile(r"[^\n\t\x20-\x7e\u00a0-\U0010ffff]")
"""Characters of a log that a page replaces: escape sequences, zeros, content of binary files."""


def job(board: Board, request: Request) -> Response:
    """Page of a job."""
    found = board.job(request.path_params["key"])

    def make() -> dict[str, Any]:
        folder = board.home.job(found.stage, found.key)
        result = folder.read_result() or {}
        told = result.get("provenance")
        asked = read_json(folder.job)
        read = (
            asked.get("inputs") if isinstance(asked, dict) else None
        )  # exact: what a training reads depends on its terms
        with board.model.lock:
            now = board.model.jobs[found.key]
            used = board.model.users(found.key)
            keys = used[0].jobs if used else {}
            inputs = [
                (name, keys[name], board.model.jobs.get(keys[name]))
                for name in (read if isinstance(read, dict) else _inputs(declared_of(board, now), keys))
                if name in keys
            ]
            owner = board.model.schedulers.get(now.owner or "")
            about = describe(board.model, now)
        declared = stage_of(now.stage, folder)
        files = [name for name in (declared.files if declared else ()) if (folder.out / name).exists()]
        return {
            **about,
            "history": board.model.ledger.jobs.history(found.key),
            "metrics": board.curves.results(folder),
            "seconds": result.get("seconds"),
            "provenance": sorted(flattened(told).items()) if isinstance(told, dict) else [],
            "inputs": inputs,
            "rows": used[:50],
            "more": max(0, len(used) - 50),
            "files": files,
            "folder": str(folder.path),
            "owner": owner,
            "owner_alive": owner.may_be_alive() if owner else None,
            "advice": advice(now.why, now.stage, now.key),
            "lines": last_lines(now, 30),
            "has_log": folder.log.exists(),
        }

    return board.page(request, "job.html", make)


def _inputs(stage: Stage | None, keys: dict[str, str]) -> list[str]:
    return [name for name in stage.inputs if name in keys] if stage else []


def log(board: Board, request: Request) -> Response:
    """A part of a job's log as JSON: `text`, `next` (byte to go on from), `skipped` (bytes left out before it), `more`.

    The query's `from` is the byte to begin at; without it the answer begins near the end.
    """
    found = board.job(request.path_params["key"])
    file = board.home.job(found.stage, found.key).log
    if not is_plain(file):
        return JSONResponse({"text": "", "next": 0, "skipped": 0, "more": False})
    size = file.stat().st_size
    given = request.query_params.get("from", "")
    first = int(given) if given.isdecimal() and len(given) < 16 else max(0, size - CHUNK)
    skipped = max(0, size - 8 * CHUNK - first)  # a log that grows faster than it is read: its end matters most
    first = first + skipped if first <= size else 0
    with file.open("rb") as opened:
        opened.seek(first)
        data = opened.read(CHUNK)
    end = first + len(data)
    if end < size and b"\n" in data:
        data = data[: data.rfind(b"\n") + 1]
    else:
        data = data[: len(data) - _begun(data)]
    end = first + len(data)
    return JSONResponse({"text": shown(data), "next": end, "skipped": skipped, "more": end < size})


def _begun(data: bytes) -> int:
    """How many bytes at the end begin what the next write may complete: a character, or a line end of two."""
    if data.endswith(b"\r"):
        return 1
    decoder = getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-4:])
    return len(decoder.getstate()[0])


def shown(data: bytes) -> str:
    """A log's bytes as text for a page; bytes and characters that cannot be shown are replaced."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return CONTROL.sub("\ufffd", text)


def is_plain(file: Path) -> bool:
    """Whether a path is a regular file: not a symbolic link to another file, and not a pipe."""
    return file.is_file() and not file.is_symlink()


def whole_log(board: Board, request: Request) -> Response:
    """The whole log as a file to download.

    Raises:
        NotFoundError: there is no log yet.
    """
    found = board.job(request.path_params["key"])
    file = board.home.job(found.stage, found.key).log
    if not is_plain(file):
        raise NotFoundError(f"{found.stage} {found.key}: no worker has started yet, so there is no log.")
    name = {"Content-Disposition": f'attachment; filename="{found.stage}-{found.key}.txt"'}
    return StreamingResponse(_pieces(file, file.stat().st_size), 200, name, "text/plain; charset=utf-8")


def _pieces(file: Path, left: int) -> Iterator[bytes]:
    """The first `left` bytes of a file in pieces: it may grow while it is sent."""
    with file.open("rb") as opened:
        while left > 0 and (piece := opened.read(min(left, CHUNK))):
            left -= len(piece)
            yield piece


def output(board: Board, request: Request) -> Response:
    """A file that the job's stage declares: a PNG, or one class of it (`class`), to show; any other to download.

    Raises:
        NotFoundError: there is no such file or class.
    """
    found, name = board.job(request.path_params["key"]), request.path_params["name"]
    file = board.home.job(found.stage, found.key).out / name
    stage = declared_of(board, found)
    if stage is None or name not in stage.files or not is_plain(file):
        raise NotFoundError(f"{found.stage} {found.key} has no file {name[:40]!r}.")
    if name.endswith(".png"):
        chosen = request.query_params.get("class", "")
        if chosen.isdecimal() and len(chosen) < 4:
            return Response(_line_of(board, found.key, file, int(chosen)), media_type="image/png")
        return FileResponse(file, media_type="image/png")
    return FileResponse(file, media_type="application/octet-stream", filename=f"{found.stage}-{found.key[:8]}-{name}")


def _line_of(board: Board, key: str, file: Path, chosen: int) -> bytes:
    """One class of a grid of samples as PNG; the grid has a line for each of the first ten classes."""
    import io

    from PIL import Image

    from star_board.views.runs import classes_of

    users = board.model.users(key)
    known = board.model.ledger.runs.of([users[0].run]) if users else {}
    lines = max((min(10, classes_of(one)) for one in known.values()), default=0)
    if not 0 <= chosen < lines:
        raise NotFoundError(f"generate {key} shows no class {chosen}.")
    buffer = io.BytesIO()
    try:
        with Image.open(file) as grid:
            side = grid.height // lines
            grid.crop((0, chosen * side, grid.width, (chosen + 1) * side)).save(buffer, "png")
    except (OSError, ValueError, SyntaxError, SystemError) as error:
        raise NotFoundError(f"generate {key}: {file.name} cannot be read as a grid of samples: {error}") from None
    return buffer.getvalue()


def attention(board: Board, request: Request) -> Response:
    """A model's attention maps as PNG.

    Raises:
        NotFoundError: the job has none.
    """
    found = board.job(request.path_params["key"])
    name = found.stage in builtin_stages() and builtin_stages()[found.stage].drawn.get("attention")
    file = board.home.job(found.stage, found.key).out / (name or "")
    if not name or not is_plain(file):
        raise NotFoundError(f"{found.stage} {found.key} has no attention maps.")
    return Response(attention_picture(file), media_type="image/png")
