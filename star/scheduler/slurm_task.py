"""What runs on a Slurm node: a process of submitit that starts the worker and handles Slurm's signals for it.

Before a time limit Slurm sends USR2, as submitit requests. The worker is then asked to stop, with what its stage keeps,
and submitit requeues the job under the same number, as often as `slurm.timeouts` allows (never, where the stage keeps
nothing); after that the job is over. SIGTERM comes at a preemption and at `scancel`: the worker stops too, and the job
is requeued unless it was cancelled.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

from star.rundir import PREEMPTED, TIMED_OUT
from star.scheduler.worker_process import start_worker, worker_environment


class Attempt:
    """One attempt of a job, as submitit sends it to a node. It holds only plain values.

    Args:
        job: the job's folder.
        code: the snapshot that the worker imports `star` from.
        worker: the module that is run.
        attempt: its number; the worker ends at once when a newer one has begun.
    """

    def __init__(self, job: str, code: str, worker: str, attempt: int) -> None:
        self.job, self.code, self.worker, self.attempt = job, code, worker, attempt

    def __call__(self) -> None:
        """Run the worker; this process ends with its exit code."""
        from submitit.core.utils import UncompletedJobError

        global _running
        environment = worker_environment(self.code, self.attempt, STAR_NODE_RANK=os.environ.get("SLURM_NODEID", "0"))
        # Slurm sends USR2 to every process of the job, which would end a worker before it has saved anything
        _running = start_worker(self.job, self.worker, self.code, environment, _ignore_usr2)
        signal.signal(signal.SIGTERM, lambda number, frame: _ask(signal.SIGTERM))
        code: int
        try:
            _until_over()
            code = _running.wait()
        except UncompletedJobError:
            # raised by submitit's signal handler: time is over, and Slurm will not start it again
            code = _running.wait()
            code = TIMED_OUT if code == PREEMPTED else code
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if code == PREEMPTED and _is_still_wanted():
            subprocess.run(["scontrol", "requeue", _number()], check=False)
            time.sleep(60)  # Slurm ends this process
        sys.exit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> Any:
        """Stop the worker. submitit calls this in its signal handler for USR2, and then requeues the job."""
        from submitit.helpers import DelayedSubmission

        _ask(signal.SIGTERM)
        _until_over()
        return DelayedSubmission(Attempt(self.job, self.code, self.worker, self.attempt))


def _ignore_usr2() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


_running: subprocess.Popen[bytes] | None = None


def _ask(number: int) -> None:
    if _running is not None:
        try:
            os.kill(_running.pid, number)
        except ProcessLookupError:
            pass


def _until_over() -> None:
    """Wait for the worker's end by a descriptor: `Popen.wait` holds a lock that a signal handler could not get."""
    assert _running is not None
    gate = os.pidfd_open(_running.pid)
    poll = select.poll()
    poll.register(gate, select.POLLIN)
    poll.poll()
    os.close(gate)


def _number() -> str:
    """Slurm's number of this job alone: the id of an array's last element is the array's too, and stands for all of it."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _is_still_wanted() -> bool:
    """Whether Slurm counts this job as running, so that it was preempted and not cancelled."""
    shown = subprocess.run(["scontrol", "show", "job", _number()], capture_output=True, text=True, check=False)
    return "JobState=RUNNING" in shown.stdout
