"""The contract of an executor: where a job's processes run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
WORKER = "star.worker"


@dataclass(frozen=True)
class Start:
    """One attempt of one job, to be started."""

    job: JobDir
    stage: str
    name: str
    """Of this attempt, the same for whoever starts or looks for it."""
    code: Path
    """The snapshot that it imports `star` from."""
    resources: Resources
    claim: Allocation
    after: tuple[Handle, ...] = ()
    """Attempts that have to succeed first; only for an executor that `chains`."""
    attempt: int = 1
    """Given to the worker, which ends at once when its job's folder knows a newer one."""
    title: tuple[str, str, str] = ("", "", "")
    """For people: experiment, stage, row."""

    @property
    def processes(self) -> int:
        """The number of processes of this job on each node."""
        return self.resources.processes_of(self.stage)


@dataclass(frozen=True)
class Exit:
    """A process has ended.

    `code` is None when nobody was there to see it; a negative one is a signal. `state` is the cluster's own word, such as
    OUT_OF_MEMORY.
    """

    code: int | None
    state: str | None = None


@dataclass
class Watched:
    """A running attempt, as a scheduler asks about it."""

    job: JobDir
    name: str
    handle: Handle | None
    """None when its scheduler died before it could keep one."""
    host: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Executor(Protocol):
    """Starts workers and watches them. A handle outlives the scheduler that made it."""

    name: str
    queues: bool
    """Whether its jobs go on, and queued ones start, when no scheduler is there."""
    chains: bool
    """Whether it takes jobs that have to wait for others."""

    def limits(self) -> Limits | None:
        """What the machine has; None when the executor decides alone what runs when."""
        ...

    def place(self, stage: str, resources: Resources, held: Limits) -> Allocation | None:
        """What a job would hold, next to what is held already; None when there is no room now."""
        ...

    def never(self, stage: str, resources: Resources) -> str | None:
        """Why there will never be room for a job, however long it waits; None when there can be."""
        ...

    def submit(self, starts: Sequence[Start]) -> list[Handle | ExecutorError]:
        """Start a worker process for each; an error where the executor refused that one."""
        ...

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """For each: None while it runs or waits in the executor's queue."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep, or less where something may have ended."""
        ...

    def stop(self, watched: Watched, kill: bool = False) -> None:
        """Ask it to stop; with `kill`, end it now."""
        ...

    def close(self) -> None:
        """Let go of the connection; what runs goes on."""
        ...
