"""The states of a job, which may follow which, and why one followed another."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any


class JobState(StrEnum):
    """Where a job is: waits for room or for its inputs, has an attempt, has a result, will not be tried again by itself, was taken
    out by somebody, or was left by a scheduler that died."""

    QUEUED = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()
    CANCELLED = auto()
    LOST = auto()


QUEUED, RUNNING, DONE, FAILED, CANCELLED, LOST = JobState
TRANSITIONS: dict[str, set[str]] = {
    QUEUED: {RUNNING, DONE, FAILED, CANCELLED},
    RUNNING: {DONE, FAILED, QUEUED, LOST, CANCELLED},
    FAILED: {QUEUED, DONE, CANCELLED},
    LOST: {QUEUED, DONE, CANCELLED},
    CANCELLED: {QUEUED, DONE},
    DONE: {QUEUED},
}
"""Which state may follow which. A job is done again only when its result has gone, or when `rerun` asks for it."""

ASKED, STARTED, ADOPTED, FINISHED, FOUND, AGAIN, GONE = (
    *("asked", "started", "adopted", "finished", "found", "again", "gone"),
)
"""Why, where nothing failed: first asked for; claimed by a scheduler; taken over from a dead one; its worker is done; a
result was found in its folder; asked for again; the result it had is no longer there."""


def row_state(targets: Iterable[str | None], states: Collection[str]) -> str:
    """Of a run: `done` when all its targets are, else the worst that befell one of its jobs, else `waiting`.

    Args:
        targets: states of the jobs that it should reach; None of one that is not known.
        states: of all its jobs.
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
    """The machine; None where the executor alone knows it."""
    slots: int = 0
    gpus: dict[str, int] | None = None
    """UUID -> bytes."""
    executor: str = LOCAL
    """The scheduler puts its own executor's name here."""

    def __post_init__(self) -> None:
        if self.host is not None and self.host.startswith("@"):  # as an executor without machines said it in 0.1
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
    """The newest that its folder knows, where the ledger is made anew."""


@dataclass(frozen=True)
class Job:
    """One stage's place in the ledger."""

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
    """The scheduler that watches it."""
    executor: str | None
    """Where it was started last, and on which machine where that is known."""
    host: str | None
    slots: int
    gpus: dict[str, int] | None
    not_before: float | None
    """When the next attempt may start."""
    wish: str | None
    """What a verb wants of the owner: `cancel`."""
    created: float
    started: float | None
    finished: float | None
    error_class: str | None
    error: str | None
    why: str | None = None
    """Why it is in this state: a word of `ASKED` and the like, or the class of a failure."""

    @property
    def location(self) -> str | None:
        """The machine that it was started on last, or the executor that knows it, for people."""
        return self.host or self.executor


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
    """As `star.process` knows it: a process id alone may belong to somebody else by now."""
    executor: str
    command: str
    beats: int
    """Grows while it lives. Others watch whether it does, so no two clocks are compared."""
    seen: float
