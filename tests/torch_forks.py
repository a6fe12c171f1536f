"""The fork servers of a command that a test runs, forked from a process that has imported torch.

A scheduler starts `python -m star.fork_server`, which imports torch: three seconds of a core, more than all jobs of a tiny
experiment. In a command that `tests.command` forked, torch is there already; what is loaded of `star` is the snapshot's, as ever.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any, NoReturn

MODULE = "star.fork_server"


def fork_servers() -> None:
    """Let this process, which has no threads yet and nothing of `star`, fork its fork servers of one thread."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        os.setsid()
        _serve(theirs)
    theirs.close()

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __new__(cls, args: Any, *rest: Any, **options: Any) -> Any:
            if list(args)[1:3] == ["-m", MODULE] and options["env"]["OMP_NUM_THREADS"] == "1":
                return _Forked(ours, args[3:], options)
            return super().__new__(cls)

    subprocess.Popen = Popen  # type: ignore[misc]


class _Forked:
    """What `star.scheduler.forks` uses of a `Popen`."""

    def __init__(self, control: socket.socket, argv: list[str], options: dict[str, Any]) -> None:
        self._control = control
        self._code: int | None = None
        request = {"module": argv[0], "cwd": str(options["cwd"]), "env": options["env"]}
        socket.send_fds(control, [json.dumps(request).encode()], [options["stdout"].fileno(), int(argv[1])])
        self.pid = int(control.recv(100))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._code is None:
            self._control.sendall(json.dumps(self.pid).encode())
            self._code = int(self._control.recv(100))
        return self._code


def _serve(control: socket.socket) -> NoReturn:
    """Fork a server for each request, and say how one ended, until the command ends; the servers go on."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 2)
        if not message:
            os._exit(0)
        request = json.loads(message)
        if isinstance(request, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(request, 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                control.close()
                _become(request, *descriptors)
            for one in descriptors:
                os.close(one)
        control.sendall(str(answer).encode())


def _become(request: dict[str, Any], output: int, channel: int) -> NoReturn:
    """Be `python -m star.fork_server MODULE CHANNEL`."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, output, output)):
        os.dup2(descriptor, number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:] = [request["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    for name in [name for name in sys.modules if name.partition(".")[0] == "star"]:
        del sys.modules[name]
    sys.argv = [MODULE, request["module"], str(channel)]
    with suppress(BaseException):
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    os._exit(0)
