"""What ended a job that has no result, and what is done about it.

The classes are few, because each has its own policy. What tells them apart, in this order: the cluster's word, the exit code,
the class of the exception that the worker reported, the last lines of its log, the signal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star.ledger.states import AGAIN, ASKED
from star.rundir import BUSY, NO_SPACE, PREEMPTED, STOPPED, TIMED_OUT, USER_ERROR
from star.scheduler.executor import Exit
from star.scheduler.policies import (
    BUG,
    CANCELLATION,
    DEATH,
    DEPENDENCY,
    DISK,
    INFRASTRUCTURE,
    MEMORY,
    NUMBERS,
    POLICIES,
    PREEMPTION,
    TIMEOUT,
    USER,
    WAITING,
    Policy,
)

TAIL = 20
"""Last lines of a log that are kept with a failure."""

ENGINE: dict[str, str] = {
    "OUT_OF_MEMORY": MEMORY,
    "TIMEOUT": TIMEOUT,
    "DEADLINE": TIMEOUT,
    "PREEMPTED": PREEMPTION,
    "REQUEUED": PREEMPTION,
    "NODE_FAIL": INFRASTRUCTURE,
    "BOOT_FAIL": INFRASTRUCTURE,
    "LAUNCH_FAILED": INFRASTRUCTURE,
    "ACTOR_DIED": INFRASTRUCTURE,
    "CANCELLED": CANCELLATION,
    "DEPENDENCY": DEPENDENCY,
}
EXCEPTIONS: dict[str, str] = {
    "OutOfMemoryError": MEMORY,
    "MemoryError": MEMORY,
    "DivergedError": NUMBERS,
    "DistBackendError": INFRASTRUCTURE,
    "DistNetworkError": INFRASTRUCTURE,
    STOPPED: PREEMPTION,
    "ScriptKilled": DEATH,
}
SIGNS: tuple[tuple[str, str], ...] = (
    (r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|can't allocate memory|oom[-_]kill|Out of memory", MEMORY),
    (r"No space left on device|Disk quota exceeded", DISK),
    (
        r"uncorrectable ECC|NCCL (error|WARN)|ncclSystemError|Watchdog caught collective operation timeout|Xid|"
        r"CUDA error: (unspecified launch failure|an illegal memory access|device-side|unknown error|initialization error)|"
        r"CUDA driver (initialization failed|version is insufficient)|fell off the bus|Stale file handle|"
        r"Input/output error|Transport endpoint is not connected|Connection reset by peer|Too many open files",
        INFRASTRUCTURE,
    ),
)
"""(pattern in the last lines of the log, class), the first that is found."""


@dataclass(frozen=True)
class Failure:
    """Why a job has no result."""

    kind: str
    """One of the classes above."""
    name: str
    """The exception's class, where the worker told; else the kind."""
    message: str
    tail: str = ""
    is_final: bool = False
    """Whether the cluster has tried again already, as often as it may."""

    @property
    def policy(self) -> Policy:
        """What the scheduler does about this failure."""
        return POLICIES[self.kind]

    @property
    def text(self) -> str:
        """For the ledger: the message, and the last lines of the log where the message alone would not do."""
        shown = self.message
        if self.tail and self.kind not in (USER, NUMBERS, DISK):
            shown += f"\n{self.tail}"
        return shown


def classify(exit: Exit, told: dict[str, Any] | None, log: Path) -> Failure:
    """The class of an end without a result.

    Args:
        told: the worker's failure.json.
    """
    tail = last_lines(log)
    name = str(told["class"]) if told else ""
    message = str(told["message"]) if told else _how(exit)
    kind = _kind(exit, told, tail)
    if exit.code == TIMED_OUT:  # it was asked to stop, and told that it did
        return Failure(kind, kind, "it reached its time limit", tail, is_final=True)
    return Failure(kind, name or kind, message, tail)


def _kind(exit: Exit, told: dict[str, Any] | None, tail: str) -> str:
    """The first that is sure."""
    stopped = exit.code == PREEMPTED or bool(told and told["class"] == STOPPED)
    user = exit.code == USER_ERROR or bool(told and told.get("user"))
    sure = (
        (ENGINE.get(exit.state or "", ""), exit.state in ENGINE),
        (WAITING, exit.code == BUSY),
        (TIMEOUT, exit.code == TIMED_OUT),
        (PREEMPTION, stopped),
        (DISK, exit.code == NO_SPACE),
        (EXCEPTIONS.get(told["class"], "") if told else "", bool(told and told["class"] in EXCEPTIONS)),
        (USER, user),
    )
    text = f"{told['message']}\n{tail}" if told else tail
    read = ((kind, re.search(pattern, text) is not None) for pattern, kind in SIGNS)
    return next((kind for kind, holds in (*sure, *read) if holds), BUG if told else DEATH)


def failures_since_asked(history: Sequence[Any], kind: str) -> int:
    """How often a job failed in this way since it was last asked for."""
    count = 0
    for entry in reversed(history):
        if entry.why in (AGAIN, ASKED):
            break
        count += entry.why == kind
    return count


def last_lines(log: Path, count: int = TAIL, size: int = 8192) -> str:
    """The end of what the newest attempt printed."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - size))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    starts = [number for number, line in enumerate(lines) if line.startswith("== attempt ")]
    return "\n".join(lines[starts[-1] + 1 if starts else 0 :][-count:])


def _how(exit: Exit) -> str:
    if exit.code is not None and exit.code < 0:
        return f"its worker died by signal {-exit.code}"
    if exit.state:
        return f"the cluster says {exit.state}"
    return (
        f"its worker ended with exit code {exit.code}"
        if exit.code is not None
        else "its worker died while nobody watched"
    )
