"""Classify why a job ended without a result.

The classes are few, because each has its own policy (`star.scheduler.policies`). They are told apart by, in this order:
the cluster's word, the exit code, the class of the exception that the worker reported, the last lines of its log, the
signal.
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
"""(pattern, class): the first pattern found in the reported message or the last lines of the log decides."""


@dataclass(frozen=True)
class Failure:
    """Why a job has no result."""

    kind: str
    """The class of failure, a key of POLICIES."""
    name: str
    """The class of the exception, where the worker reported one; else the same as `kind`."""
    message: str
    tail: str = ""
    is_final: bool = False
    """Whether the cluster has already tried again as often as it may, so that the scheduler does not."""

    @property
    def policy(self) -> Policy:
        """What the scheduler does about this failure."""
        return POLICIES[self.kind]

    @property
    def text(self) -> str:
        """The text that the ledger keeps: the message, and the log's last lines where the message says too little."""
        shown = self.message
        if self.tail and self.kind not in (USER, NUMBERS, DISK):
            shown += f"\n{self.tail}"
        return shown


def classify(exit: Exit, told: dict[str, Any] | None, log: Path) -> Failure:
    """Classify the end of an attempt that left no result.

    Args:
        told: the content of the worker's failure.json; None without one.
    """
    tail = last_lines(log)
    name = str(told["class"]) if told else ""
    message = str(told["message"]) if told else _how(exit)
    kind = _kind(exit, told, tail)
    if exit.code == TIMED_OUT:  # failure.json says only that the worker was asked to stop
        return Failure(kind, kind, "it reached its time limit", tail, is_final=True)
    return Failure(kind, name or kind, message, tail)


def _kind(exit: Exit, told: dict[str, Any] | None, tail: str) -> str:
    """Return the first class that applies: by definite signs, else by patterns in the log, else `error` or `died`."""
    stopped = exit.code == PREEMPTED or bool(told and told["class"] == STOPPED)
    user = exit.code == USER_ERROR or bool(told and told.get("user"))
    sure = (
        (ENGINE.get(exit.state or "", ""), exit.state in ENGINE),
        (WAITING, exit.code == BUSY),
        (TIMEOUT, exit.code == TIMED_OUT),
        (PREEMPTION, stopped),
        (DISK, exit.code == NO_SPACE),
        (EXCEPTIONS.get(told["class"], "") if told else "", bool(told and told["class"] in EXCEPTIONS)),
        (INFRASTRUCTURE, bool(told and told.get("passing"))),
        (USER, user),
    )
    text = f"{told['message']}\n{tail}" if told else tail
    read = ((kind, re.search(pattern, text) is not None) for pattern, kind in SIGNS)
    return next((kind for kind, holds in (*sure, *read) if holds), BUG if told else DEATH)


def failures_since_asked(history: Sequence[Any], kind: str) -> int:
    """Count the failures of class `kind` since the job was last asked for, by `run`, `retry` or `rerun`."""
    count = 0
    for entry in reversed(history):
        if entry.why in (AGAIN, ASKED):
            break
        count += entry.why == kind
    return count


def last_lines(log: Path, count: int = TAIL) -> str:
    """Return the last `count` lines that the newest attempt printed, from the last 8 KiB of its log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8192))
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
