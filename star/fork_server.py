"""`python -m star.fork_server MODULE SOCKET`: imports what workers need once, then forks a worker for each request.

Importing torch takes longer than many jobs. A forked worker has it already, and is otherwise the process that
`python -m MODULE JOB_DIR` would be: it has its own session, environment and process title.

Requests and answers are lines of JSON on the socket, whose file descriptor is given:

    {"id": 1, "argv": [JOB_DIR], "cwd": ..., "env": {...}, "log": FILE}   start one
    {"id": 1, "pid": 4711}  or  {"id": 1, "error": "..."}                 it runs, or could not be started
    {"ended": 4711, "code": 0}                                            it has ended; a negative code is a signal

When the other side closes the socket, or dies, this process ends; the workers go on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import select
import socket
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from typing import Any, NoReturn

from setproctitle import setproctitle

ROOM = "STAR_FORK_SERVER_ROOM"
"""Environment variable with a long filler text; the workers' process titles are written over it."""


def serve(module: str, number: int) -> None:
    """Fork workers until the socket is closed."""
    with suppress(Exception):  # a worker meets the same error, and reports it in its own log
        for name in (module, *getattr(importlib.import_module(module), "PRELOAD", ())):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or a worker's first collection would copy every page
    warnings.simplefilter("ignore", DeprecationWarning)  # warns of forking with threads: BLAS stops its own before
    channel, buffer = socket.socket(fileno=number), b""
    children: dict[int, int] = {}
    ready = select.poll()
    ready.register(channel, select.POLLIN)
    while True:
        for descriptor, _ in ready.poll():
            if descriptor in children:
                ready.unregister(descriptor)
                os.close(descriptor)
                pid = children.pop(descriptor)
                _tell(channel, {"ended": pid, "code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})
                continue
            received = channel.recv(1 << 16)
            if not received:
                return
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                request = json.loads(line)
                try:
                    os.close(
                        os.pidfd_open(os.getpid())
                    )  # where descriptors are short nothing is begun that could not be watched
                    pid = _fork(module, request, [number, *children])
                except OSError as error:
                    _tell(channel, {"id": request["id"], "error": str(error)})
                    continue
                child = os.pidfd_open(pid)
                children[child] = pid
                ready.register(child, select.POLLIN)
                _tell(channel, {"id": request["id"], "pid": pid})


def _tell(channel: socket.socket, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the scheduler is gone; the next `recv` says so
        channel.sendall(json.dumps(message).encode() + b"\n")


def _fork(module: str, request: dict[str, Any], mine: list[int]) -> int:
    """Fork a worker; returns its process id once it has its own session and title, by which it is found and stopped."""
    told, tell = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _become(module, request, [told, *mine], tell)
    except OSError:
        os.close(told)
        os.close(tell)
        raise
    os.close(tell)
    os.read(told, 1)
    os.close(told)
    return pid


def _become(module: str, request: dict[str, Any], foreign: list[int], tell: int) -> NoReturn:
    """In the child: run the worker's module, then exit; never returns."""
    code = 1
    try:
        os.setsid()
        setproctitle(" ".join(["python -m", module, *request["argv"]]))
        for descriptor in foreign:
            os.close(descriptor)
        os.chdir(request["cwd"])
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.clear()
        os.environ.update(request["env"])
        tempfile.tempdir = None  # may have been looked up while importing
        time.tzset()
        random.seed()
        os.close(tell)
        sys.argv = [module, *request["argv"]]
        sys.modules.pop(module, None)  # it runs again, as `__main__`
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
