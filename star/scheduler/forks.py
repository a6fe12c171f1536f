"""This scheduler's fork servers: processes that have imported torch once, and fork a worker in a few milliseconds."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from star.fork_server import ROOM


class ForkServer:
    """One server, for workers of one module, code and number of threads. See `star.fork_server`.

    Args:
        code: the snapshot that it imports `star` from.
        threads: of each worker: libraries for linear algebra ask for it when they are loaded.
        log: where the server's own last words go.
    """

    def __init__(self, module: str, code: Path, threads: int, environment: Mapping[str, str], log: Path) -> None:
        self.is_gone = False
        """Whether the server has ended; its workers may live."""
        self._codes: dict[int, int] = {}
        self._buffer, self._number = b"", 0
        self._log = log
        self._channel, far = socket.socketpair()
        libraries = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        with log.open("ab") as output, far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "star.fork_server", module, str(far.fileno())],
                cwd=code,
                env={**environment, **libraries, ROOM: " " * os.pathconf("/", "PC_PATH_MAX")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[far.fileno()],
                start_new_session=True,
            )

    def fileno(self) -> int:
        """Becomes readable when a worker ends, or the server."""
        return self._channel.fileno()

    def start(self, job: Path, environment: Mapping[str, str], cwd: Path, log: Path) -> int:
        """Have a worker started; returns its process id.

        Raises:
            OSError: it could not be started.
        """
        self._number += 1
        request = {"id": self._number, "argv": [str(job)], "cwd": str(cwd), "env": dict(environment), "log": str(log)}
        with suppress(BrokenPipeError):  # that it is gone is found below
            self._channel.sendall(json.dumps(request).encode() + b"\n")
        while not self.is_gone:
            for message in self._received():
                if message.get("id") != self._number:
                    continue  # of a request that Ctrl-C interrupted
                if "error" in message:
                    raise OSError(message["error"])
                return int(message["pid"])
        raise OSError(f"the process that forks workers ended with {self._process.wait()}; {self._log} may say why")

    def code(self, pid: int) -> int | None:
        """How a worker has ended, once; None while it runs, and when the server ended before it."""
        self.collect()
        return self._codes.pop(pid, None)

    def collect(self) -> None:
        """Read what the server has told, without waiting."""
        while not self.is_gone and select.select([self], [], [], 0)[0]:
            self._received()

    def close(self) -> None:
        """End the server, which may still be importing. Its workers go on."""
        self._channel.close()
        self.is_gone = True
        self._process.kill()
        self._process.wait()

    def _received(self) -> list[dict[str, Any]]:
        """What comes next, waited for; the ends of workers are kept."""
        try:
            received = self._channel.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        self.is_gone = not received
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:  # in their order: a new worker may have the number of one that has ended
            if "pid" in message:
                self._codes.pop(message["pid"], None)
            if "ended" in message:
                self._codes[message["ended"]] = message["code"]
        return messages
