"""The contract of an executor: where a job's processes run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from star.errors import ExecutorError
from star.ledger.states import Allocation
from star.rundir import JobDir
from star.spec.resources import Resources

Handle = dict[str, Any]
"""What an executor needs to find a process again, as JSON; kept in the ledger."""
Limits = tuple[int, dict[str, int]]
"""CPU slots, and bytes of each GPU by UUID."""
SILENCE = 90.0
"""Seconds without a heartbeat after which a worker that cannot be asked counts as gone."""
WORKER = "star.worker"


@dataclass(frozen=True)
class Start:
    """One attempt of one job, to be started."""

    job: JobDir
    stage: str
    name: str
    """Made from stage, key and attempt number, so that every scheduler finds this attempt by the same name."""
    code: Path
    """The snapshot that it imports `star` from."""
    resources: Resources
    claim: Allocation
    after: tuple[Handle, ...] = ()
    """Attempts that have to succeed first; only for an executor that `chains`."""
    attempt: int = 1
    """The attempt's number. The worker gets it, and ends at once when its job's folder holds a higher one."""
    title: tuple[str, str, str] = ("", "", "")
    """Experiment, stage and row, to show to people."""

    @property
    def processes(self) -> int:
        """The number of processes of this job on each node."""
        return self.resources.processes_of(self.stage)


@dataclass(frozen=True)
class Exit:
    """How a worker's process has ended.

    `code` is its exit code: negative for a signal, None when nobody saw it end. `state` is the cluster's own word, such
    as OUT_OF_MEMORY.
    """

    code: int | None
    state: str | None = None


@dataclass
class Watched:
    """A running attempt, in the form that an executor's `poll` and `stop` take."""

    job: JobDir
    name: str
    handle: Handle | None
    """None when its scheduler died before it could save one."""
    host: str | None = None


class Executor(Protocol):
    """Starts workers and watches them. A handle outlives the scheduler that made it."""

    name: str
    queues: bool
    """Whether its jobs go on, and queued ones start, when no scheduler is running."""
    chains: bool
    """Whether it accepts jobs that have to wait for others."""

    def limits(self) -> Limits | None:
        """The slots and GPU memory that may be filled; None when the executor itself decides what runs when."""
        ...

    def place(self, stage: str, resources: Resources, held: Limits) -> Allocation | None:
        """What a job would occupy, given what running jobs hold (`held`); None when there is no room now."""
        ...

    def never(self, stage: str, resources: Resources) -> str | None:
        """Why there will never be room for a job, however long it waits; None when there can be."""
        ...

    def submit(self, starts: Sequence[Start]) -> list[Handle | ExecutorError]:
        """Start the attempts; returns for each a handle, or an error where the executor refused it."""
        ...

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """Return for each attempt its Exit, or None while it runs or waits in the executor's queue."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or less when a worker may have ended."""
        ...

    def stop(self, watched: Watched, kill: bool = False) -> None:
        """Ask the worker to stop; with `kill`, end it now."""
        ...

    def close(self) -> None:
        """Release the connection; what runs goes on."""
        ...
