"""A job of several processes: the worker becomes torchrun's agent, and its children do the work."""

from __future__ import annotations

import ctypes
import logging
import os
import signal

from star.rundir import BUSY, DONE, FAILED, PREEMPTED, STOPPED, USER_ERROR, JobDir, read_json

MARK = "STAR_CHILD"
SET_PARENT_DEATH_SIGNAL = 1
log = logging.getLogger("star.worker")


def is_child() -> bool:
    """Whether this process is one of several, started by `several`."""
    return MARK in os.environ


def follow_parent() -> None:
    """Be asked to stop when the agent is killed (Linux): children in sessions of their own would go on alone."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def several(job: JobDir, count: int) -> int:
    """Run `count` workers on one job under torchrun; returns the exit code of all of them together."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    if job.locked():
        log.error("another worker holds %s", job.path)
        return BUSY
    job.failure.unlink(missing_ok=True)  # so that what stands there afterwards is this attempt's
    # torchrun passes SIGTERM on to its children but would die of SIGUSR1
    signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    os.environ[MARK] = "1"
    try:
        torchrun(["--standalone", f"--nproc-per-node={count}", "--max-restarts=0", "-m", "star.worker", str(job.path)])
    except (ChildFailedError, SignalException) as error:
        log.info("torchrun: %s", str(error).splitlines()[0])
    if job.result.exists():
        return DONE
    failure = read_json(job.failure) or {}
    if failure.get("class") == STOPPED:
        return PREEMPTED
    return USER_ERROR if failure.get("user") else FAILED
