"""Programs in processes of their own, forked as the local executor does it: libraries are imported once for many tests."""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from star.scheduler.executor import WORKER
from star.scheduler.forks import ForkServer

ROOT = Path(__file__).parent.parent


class Forked:
    """`python -m MODULE FOLDER`, a worker if not told otherwise, and what `subprocess.Popen` offers of its process."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        module: str = WORKER,
        environment: Mapping[str, str] = os.environ,
        cwd: Path = ROOT,
    ) -> None:
        self._server = _server(module)
        self.returncode: int | None = None
        self.pid = self._server.start(folder, environment, cwd, log)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.code(self.pid)
        return self.returncode

    def wait(self, timeout: float = 500) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([str(self.pid)], timeout)
            select.select([self._server], [], [], 1.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@cache
def _server(module: str) -> ForkServer:
    """One for this test process, ending with it."""
    log = Path(tempfile.gettempdir()) / f"star-fork-server-{os.getpid()}-{module}.txt"
    made = ForkServer(module, ROOT, 1, os.environ, log)
    atexit.register(lambda: (made.close(), log.unlink(missing_ok=True)))
    return made
