"""Workers in processes of their own, forked as the local executor does it: torch is imported once for many tests."""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from star.rundir import JobDir
from star.scheduler.executor import WORKER
from star.scheduler.forks import ForkServer

ROOT = Path(__file__).parent.parent


class Forked:
    """A worker on a job, and what `subprocess.Popen` offers of its process."""

    def __init__(self, job: JobDir) -> None:
        self._server = _server()
        self.returncode: int | None = None
        self.pid = self._server.start(job.path, os.environ, ROOT, job.log)

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
def _server() -> ForkServer:
    """One for this test process, ending with it."""
    log = Path(tempfile.gettempdir()) / f"star-fork-server-{os.getpid()}.txt"
    made = ForkServer(WORKER, ROOT, 1, os.environ, log)
    atexit.register(lambda: (made.close(), log.unlink(missing_ok=True)))
    return made
