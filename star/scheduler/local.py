"""Workers as processes of this machine. They live in sessions of their own, so Ctrl-C reaches the scheduler alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil

from star.rundir import JobDir
from star.scheduler.executor import Exit, Handle


class LocalExecutor:
    """Starts workers here; finds those of an earlier scheduler by process id and start time."""

    name = "local"

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def submit(self, job: JobDir) -> Handle:
        """Start the worker; what it prints is appended to the job's log."""
        with job.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "star.worker", str(job.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[child.pid] = child
        return {"pid": child.pid, "started": _started(child.pid)}

    def poll(self, job: JobDir, handle: Handle | None) -> Exit | None:
        """None while the worker lives."""
        child = self._children.get(handle["pid"]) if handle else None
        if child is not None:
            code = child.poll()
            return None if code is None else Exit(code)
        return None if (handle and _alive(handle)) or job.locked() else Exit(None)

    def stop(self, job: JobDir, handle: Handle, kill: bool = False) -> None:
        """Signal the worker's whole session, if it is still the process of the handle."""
        if _alive(handle):
            try:
                os.killpg(handle["pid"], signal.SIGKILL if kill else signal.SIGTERM)
            except ProcessLookupError:
                pass


def _started(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _alive(handle: Handle) -> bool:
    """The pid alone may belong to somebody else by now."""
    try:
        process = psutil.Process(handle["pid"])
        return process.create_time() == handle["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
