"""The states of a job, which may follow which, and why one followed another."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any

from star.process import is_alive


class JobState(StrEnum):
    """State of a job.

    QUEUED waits for room or inputs, RUNNING has an attempt, DONE has a result, FAILED is not retried automatically,
    CANCELLED was taken out by a user, and LOST was left by a scheduler that died.
    """

    QUEUED = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()
    CANCELLED = auto()
    LOST = auto()


QUEUED, RUNNING, DONE, FAILED, CANCELLED, LOST = JobState
ENDED = (FAILED, CANCELLED, LOST)
"""States that a job leaves only if a user asks for it."""
SILENT = 600.0
"""Seconds after its last heartbeat from which a scheduler on another machine counts as gone; clocks may differ by some."""
TRANSITIONS: dict[str, set[str]] = {
    QUEUED: {RUNNING, DONE, FAILED, CANCELLED},
    RUNNING: {DONE, FAILED, QUEUED, LOST, CANCELLED},
    FAILED: {QUEUED, DONE, CANCELLED},
    LOST: {QUEUED, DONE, CANCELLED},
    CANCELLED: {QUEUED, DONE},
    DONE: {QUEUED},
}
"""Which states may follow each state. A job is computed again only if its result is gone or `rerun` asks for it."""

ASKED, STARTED, ADOPTED, FINISHED, FOUND, AGAIN, GONE = (
    *("asked", "started", "adopted", "finished", "found", "again", "gone"),
)
"""Reasons of transitions without a failure, in this order: first asked for; claimed by a scheduler; taken over from a
dead one; its worker is done; a result was found in its folder; asked for again; its result is no longer there.
"""


def row_state(targets: Iterable[str | None], states: Collection[str]) -> str:
    """State of a run: `done` if all targets are, else the worst state of its jobs (down to `running`), else `waiting`.

    Args:
        targets: states of the run's target jobs; None for an unknown one.
        states: states of all jobs of the run.
    """
    if all(state == DONE for state in targets):
        return DONE
    return next((state for state in (FAILED, CANCELLED, LOST, RUNNING) if state in states), "waiting")


LOCAL = "local"
"""The executor that starts processes on the scheduler's own machine."""


@dataclass(frozen=True)
class Allocation:
    """Where a job runs, and what it holds there."""

    host: str | None
    """The machine; None if only the executor knows it."""
    slots: int = 0
    gpus: dict[str, int] | None = None
    """GPU UUID -> bytes of its memory that the job holds."""
    executor: str = LOCAL
    """Name of the executor; the scheduler sets its own."""

    def __post_init__(self) -> None:
        if self.host is not None and self.host.startswith("@"):  # in 0.1, executors without machines gave such names
            object.__setattr__(self, "host", None)

    @property
    def location(self) -> str:
        """The machine, or the executor that knows it, for people."""
        return self.host or self.executor


@dataclass(frozen=True)
class NewJob:
    """A job to enter: its key, what the key is made of, and its estimated work in floating-point operations."""

    key: str
    stage: str
    label: str
    flops: float
    content: dict[str, Any] | None = None
    attempt: int = 0
    """The newest attempt in the job's folder, if the ledger is rebuilt."""


@dataclass(frozen=True)
class Taken:
    """What a finished job took."""

    stage: str
    host: str | None
    """The machine, if known."""
    flops: float
    """Its estimated operations; 0 if nobody knows them."""
    seconds: float
    """Wall time from its start to its end."""


@dataclass(frozen=True)
class Job:
    """One stage's job in the ledger."""

    key: str
    stage: str
    label: str
    state: str
    attempt: int
    """The fencing number: each start of a worker has a higher one, and only the newest may write a result."""
    flops: float
    handle: dict[str, Any] | None
    """How the executor finds the process again."""
    owner: str | None
    """Id of the scheduler that watches the job."""
    executor: str | None
    """The executor that started it last; `host` is the machine, if known."""
    host: str | None
    slots: int
    gpus: dict[str, int] | None
    not_before: float | None
    """When the next attempt may start."""
    wish: str | None
    """What a command asks of the owner: `cancel`."""
    created: float
    started: float | None
    finished: float | None
    error_class: str | None
    error: str | None
    why: str | None = None
    """Why it is in this state: a reason such as `ASKED`, or the class of a failure."""

    @property
    def location(self) -> str | None:
        """The machine that it was started on last, or the executor that knows it, for people."""
        return self.host or self.executor

    @property
    def error_line(self) -> str:
        """The first line of its error, without the class that some errors begin with."""
        return (self.error or "").partition("\n")[0].removeprefix(f"{self.error_class}: ")


@dataclass(frozen=True)
class RunRow:
    """A run as the ledger knows it."""

    key: str
    label: str
    seed: int
    spec: dict[str, Any]
    stages: dict[str, str]
    tracking_id: str | None
    created: float


@dataclass(frozen=True)
class SchedulerInfo:
    """A scheduler as the others see it."""

    id: str
    host: str
    pid: int
    born: str
    """The process's start as `star.process` identifies it: a process id alone may be reused."""
    executor: str
    command: str
    beats: int
    """Number of heartbeats. Others watch whether it grows, so that no clocks are compared."""
    seen: float

    def alive(self) -> bool | None:
        """Whether its process runs; None for one on another machine, or where that cannot be known."""
        return is_alive(self.pid, self.born) if self.host == socket.gethostname() else None

    def may_be_alive(self) -> bool:
        """Whether it runs, to tell people: one on another machine counts as gone SILENT seconds after its last heartbeat."""
        alive = self.alive()
        return time.time() - self.seen < SILENT if alive is None else alive
