"""The board's server."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import uvicorn

from star.errors import StarError
from star.ledger.store import read_ledger
from star.rundir import Home
from star_board.app import create_app
from star_board.settings import Settings

PATIENCE = 2
"""Seconds that open streams get to end when the server stops."""


def serve(settings: Settings, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or TERM.

    Raises:
        StarError: the address cannot be listened on, or the ledger cannot be read.
    """
    read_ledger(Home(settings.home))  # raises now if it cannot be read; a home where nothing has run yet is fine
    listening = _listen(host, port)
    name, bound = (f"[{host}]" if ":" in host else host), listening.getsockname()[1]
    say(f"http://{name}:{bound}/ shows {settings.home}; Ctrl-C ends it. " + _rights(settings))
    config = uvicorn.Config(
        create_app(settings),
        log_level="warning",
        access_log=False,  # addresses contain names and keys of other users' work
        server_header=False,
        timeout_graceful_shutdown=PATIENCE,
        proxy_headers=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _rights(settings: Settings) -> str:
    return "With the token it also changes things." if settings.token else "It only shows (--token-file changes that)."


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(512)
        return found
    except socket.gaierror:
        raise StarError(f"--host {host}: is no address of this machine; give one such as 127.0.0.1.") from None
    except OverflowError:
        raise StarError(f"--port {port}: give a number from 0 to 65535.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StarError(
                f"--port {port}: something listens there already; give another, or 0 for a free one."
            ) from None
        raise StarError(f"--host {host} --port {port}: cannot be listened on: {error.strerror}.") from None
