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
    """A fork server for workers with the same module, code and number of threads. See `star.fork_server`.

    Args:
        code: the snapshot that it imports `star` from.
        threads: threads of each worker, set here because linear algebra libraries read the number when they are loaded.
        log: file that the server's own output is appended to.
    """

    def __init__(self, module: str, code: Path, threads: int, environment: Mapping[str, str], log: Path) -> None:
        self.is_gone = False
        """Whether the server has ended; its workers may still run."""
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
        """The descriptor that becomes readable when a worker or the server ends."""
        return self._channel.fileno()

    def start(self, job: Path, environment: Mapping[str, str], cwd: Path, log: Path) -> int:
        """Fork a worker for the folder `job`; returns its process id.

        Raises:
            OSError: the worker could not be started, or the server has ended.
        """
        self._number += 1
        request = {"id": self._number, "argv": [str(job)], "cwd": str(cwd), "env": dict(environment), "log": str(log)}
        with suppress(BrokenPipeError):  # a server that is gone is noticed below
            self._channel.sendall(json.dumps(request).encode() + b"\n")
        while not self.is_gone:
            for message in self._received():
                if message.get("id") != self._number:
                    continue  # answers a request that Ctrl-C interrupted
                if "error" in message:
                    raise OSError(message["error"])
                return int(message["pid"])
        raise OSError(f"the process that forks workers ended with {self._process.wait()}; {self._log} may say why")

    def code(self, pid: int) -> int | None:
        """Return a worker's exit code, once (negative: a signal); None while it runs, or if the server ended first."""
        self.collect()
        return self._codes.pop(pid, None)

    def collect(self) -> None:
        """Read the server's pending messages, without waiting."""
        while not self.is_gone and select.select([self], [], [], 0)[0]:
            self._received()

    def close(self) -> None:
        """Kill the server, which may still be importing. Its workers go on."""
        self._channel.close()
        self.is_gone = True
        self._process.kill()
        self._process.wait()

    def _received(self) -> list[dict[str, Any]]:
        """Wait for the server's next messages and return them; the exit codes among them are stored."""
        try:
            received = self._channel.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        self.is_gone = not received
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:  # in order: a new worker may have the process id of one that has ended
            if "pid" in message:
                self._codes.pop(message["pid"], None)
            if "ended" in message:
                self._codes[message["ended"]] = message["code"]
        return messages
