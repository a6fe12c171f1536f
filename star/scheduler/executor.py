"""The contract of an executor: where a job's process runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from star.rundir import JobDir

Handle = dict[str, Any]
"""What an executor needs to find a process again, as JSON; kept in the ledger."""


@dataclass(frozen=True)
class Exit:
    """A process has ended. `code` is None when nobody was there to see it; a negative one is a signal."""

    code: int | None


class Executor(Protocol):
    """Starts workers and watches them. A handle outlives the scheduler that made it."""

    name: str

    def submit(self, job: JobDir) -> Handle:
        """Start `python -m star.worker` for a job."""
        ...

    def poll(self, job: JobDir, handle: Handle | None) -> Exit | None:
        """None while it runs. Without a handle (the scheduler died before it was kept) the job's lock tells."""
        ...

    def stop(self, job: JobDir, handle: Handle, kill: bool = False) -> None:
        """Ask it to save its state and end; with `kill`, end it now."""
        ...
