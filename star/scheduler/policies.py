"""The classes of failure, and what the scheduler does about each. It imports little, because `status` reads the advice.

Out of memory: the job is queued again, and its next attempt runs with passes of half as many images. This is done up to
3 times since the job was last asked for (1/2, 1/4, 1/8); after that the job fails. The size of a pass is part of no key
and does not change the result, so the job keeps its key. Training on one process halves its passes by itself and goes
on within the attempt; on several it stops, and all go on from the last checkpoint with smaller passes. A user-defined
stage, and `tokenizer`, whose passes are whole batches, fail at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from star.ledger.states import CANCELLED, FAILED, QUEUED
from star.spec.builtin import builtin_stages, goes_on
from star.spec.graph import Stage

PREEMPTION, TIMEOUT, MEMORY, DISK, NUMBERS, INFRASTRUCTURE, DEATH, USER, BUG, CANCELLATION, WAITING = (
    *("preempted", "timeout", "out_of_memory", "disk_full", "nan", "infrastructure"),
    *("died", "user_error", "error", "cancelled_outside", "busy"),
)
DEPENDENCY, REFUSED, CANCEL = "input_failed", "refused", "cancelled"


@dataclass(frozen=True)
class Policy:
    """What the scheduler does after a failure of one class."""

    after: str
    """The state that the job goes to while `attempts` is not used up; then it fails."""
    attempts: int | None
    """How many failures of this class, since the job was last asked for, are tried again; None: any number."""
    pause: float
    """Seconds before the next attempt; doubled each time."""
    advice: str
    """What `status` tells the user to do."""


POLICIES: dict[str, Policy] = {
    PREEMPTION: Policy(QUEUED, None, 0, "by itself it AGAIN"),
    WAITING: Policy(QUEUED, None, 1, "an older worker still holds the job; it is looked at again"),
    TIMEOUT: Policy(
        QUEUED,
        20,
        0,
        "raise resources.STAGE.minutes if that happens often; with `star-exp retry KEY` and the same run it AGAIN",
    ),
    MEMORY: Policy(
        QUEUED,
        3,
        0,
        "tried again with passes of half as many images; lower resources.micro_batch_size, eval_batch_size or "
        "sample_batch_size, or raise resources.STAGE.memory_gb",
    ),
    INFRASTRUCTURE: Policy(
        QUEUED, 3, 10, "the machine, not the job: tried again after a pause; look at the host if it goes on"
    ),
    DEATH: Policy(
        QUEUED,
        2,
        0,
        "its process was killed from outside; if nobody did, the machine may be short of memory: see `dmesg`",
    ),
    DISK: Policy(
        FAILED, 0, 0, "make room (`star-exp gc` shows what may go), then `star-exp retry KEY` or the same run again"
    ),
    NUMBERS: Policy(
        FAILED, 0, 0, "a matter of the spec: lower optim.lr, raise optim.warmup_steps, or set optim.grad_clip"
    ),
    USER: Policy(FAILED, 0, 0, "fix what the message says, then the same run again"),
    BUG: Policy(
        FAILED,
        0,
        0,
        "the traceback is in `star-exp logs KEY`; changed code is used by `star-exp retry KEY`, then run (a plugin "
        "that was changed has another key: the same run again runs it)",
    ),
    CANCEL: Policy(CANCELLED, None, 0, "`star-exp retry KEY` queues it again"),
    REFUSED: Policy(QUEUED, None, 10, "the executor did not take it; it is offered again"),
    DEPENDENCY: Policy(QUEUED, None, 0, "what it needs has failed; see there"),
    CANCELLATION: Policy(
        CANCELLED, None, 0, "somebody cancelled it in the cluster's queue; `star-exp retry KEY` queues it again"
    ),
}
OF_SCRIPTS = {
    BUG: "what it printed is in `star-exp logs KEY`; a script or plugin that was changed has another key: the same run again runs it",
    MEMORY: "its passes are its own: give it smaller ones by a parameter, or raise its memory_gb under resources",
    NUMBERS: "what it printed is in `star-exp logs KEY`",
}
"""Advice for user-defined stages, where it is not that of the policy."""
PAUSE_LIMIT = 600.0
"""Longest pause in seconds; pauses are doubled up to it."""


def advice(why: str | None, stage: str, key: str) -> str:
    """Return what to do about a job that ended for the reason `why`; "" where nothing failed."""
    if stage not in builtin_stages() and why in OF_SCRIPTS:
        return OF_SCRIPTS[why].replace("KEY", key[:8])
    if why == MEMORY and stage in builtin_stages() and not builtin_stages()[stage].smaller_passes:
        return f"its passes are whole batches: lower {stage}.batch_size, or raise resources.{stage}.memory_gb"
    policy = POLICIES.get(why or "")
    return (
        policy.advice.replace("KEY", key[:8]).replace("AGAIN", goes_on(stage)).replace("STAGE", stage) if policy else ""
    )


def attempts(kind: str, stage: Stage | None) -> int | None:
    """Return how many failures of class `kind` of a stage's job are tried again; None: any number.

    A timeout of a stage that keeps nothing is not tried again: it would need the same time, and run out of it again.
    """
    # its passes would be as large again
    if kind == MEMORY and stage is not None and (stage.is_own or not stage.smaller_passes):
        return 0
    return 0 if kind == TIMEOUT and (stage is None or stage.keeps is None) else POLICIES[kind].attempts


def pause(policy: Policy, before: int) -> float:
    """Seconds until the next attempt, after `before` earlier failures of the same class."""
    return min(policy.pause * 2.0**before, PAUSE_LIMIT)
