"""A worker's heartbeat, its end with its parent, and torchrun for jobs of several processes or machines."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from typing import Any

from star.errors import StarError
from star.process import die_with_parent
from star.rundir import BUSY, DONE, FAILED, PREEMPTED, STOPPED, USER_ERROR, JobDir, read_json, write_json

MARK = "STAR_CHILD"
MEETING_TIMEOUT = 300.0
"""Seconds that the machines of one job wait for each other."""
BEAT = 5.0
"""Seconds between heartbeats."""
log = logging.getLogger("star.worker")


def is_child() -> bool:
    """Whether this process is one of several that `launch_torchrun` started."""
    return MARK in os.environ


def follow_parent() -> None:
    """Get SIGTERM when torchrun's agent is killed (Linux): children in their own sessions would go on alone."""
    die_with_parent(signal.SIGTERM)


def follow_starter() -> None:
    """Get SIGTERM when the process named by STAR_PARENT is gone: on Ray, an actor that died with its machine's Ray."""
    starter = int(os.environ.get("STAR_PARENT", "0"))

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    if starter and not is_child():
        threading.Thread(target=watch, name="starter", daemon=True).start()


class Heartbeat:
    """Touches the job's `beat` file while the worker lives, and ends the worker when a newer attempt has begun.

    A scheduler on another machine asks it by the file stop.json to stop, as one on this machine does by a signal.

    A scheduler that takes a worker for dead, because its machine is silent, begins the next attempt. If the older
    worker is alive after all, it reads the higher attempt number in job.json and exits with code 3.
    """

    def __init__(self, job: JobDir, attempt: int) -> None:
        self.job, self.attempt = job, attempt
        self._obeyed: int | None = None
        self._leader = os.getppid() if is_child() else os.getpid()
        """torchrun's agent, which tells the other processes; or this one."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            try:
                self.job.beat.touch()
                superseded = self.job.attempt() > self.attempt
                self._obey(read_json(self.job.stop))
            except OSError:  # a disk that is full or away: training goes on, and so does this
                superseded = False
            if superseded:
                log.error("attempt %d is over: a newer one has begun", self.attempt)
                os._exit(BUSY)
            if self._end.wait(BEAT):
                return

    def _obey(self, asked: Any) -> None:
        if not isinstance(asked, dict) or asked.get("attempt") != self.attempt:
            return
        number = signal.SIGKILL if asked.get("kill") else signal.SIGTERM
        if number == self._obeyed:
            return
        self._obeyed = number
        if self._leader in (os.getpid(), os.getppid()):  # else the agent is gone, and its number may be another's
            os.killpg(os.getpgid(self._leader), number)
        if number == signal.SIGKILL:  # torchrun's processes have sessions of their own
            os.kill(os.getpid(), number)

    @staticmethod
    def check(job: JobDir, attempt: int) -> None:
        """End this process (exit code 3) if a newer attempt has begun; called before a result is written."""
        if job.attempt() > attempt:
            log.error("attempt %d is over: a newer one has begun; its result is left alone", attempt)
            os._exit(BUSY)


def launch_torchrun(job: JobDir, description: dict[str, Any]) -> int:
    """Run the job's workers under torchrun; returns one exit code for all of them.

    On several machines each has its own agent; STAR_NODE_RANK, which the executor sets, says which this one is.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    nodes, first = description.get("nodes", 1), os.environ.get("STAR_NODE_RANK", "0") == "0"
    if first and job.locked():
        log.error("another worker holds %s", job.path)
        return BUSY
    if first:
        job.failure.unlink(missing_ok=True)  # so that one found there afterwards is this attempt's
    meeting = ["--standalone", "--local-addr=127.0.0.1"]  # or a host name that nobody resolves would keep them waiting
    if nodes > 1:
        meeting = [
            f"--nnodes={nodes}",
            f"--node-rank={os.environ['STAR_NODE_RANK']}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={_meeting_point(job, description, first)}",
            f"--rdzv-id={description['key']}-{description.get('attempt', 0)}",
        ]
    # torchrun passes SIGTERM on to its children but would die of SIGUSR1
    signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    os.environ[MARK] = "1"
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_patience(description)))
    try:
        count = description["processes"]
        torchrun([*meeting, f"--nproc-per-node={count}", "--max-restarts=0", "-m", "star.worker", str(job.path)])
    except (ChildFailedError, SignalException) as error:
        log.info("torchrun: %s", str(error).splitlines()[0])
    if job.read_result() is not None:
        return DONE
    failure = read_json(job.failure) or {}
    if failure.get("class") == STOPPED:
        return PREEMPTED
    return USER_ERROR if failure.get("user") else FAILED


def _patience(description: dict[str, Any]) -> int:
    """Seconds from SIGTERM until torchrun kills the ranks, in which a large state has to be saved: by default 30.

    It must end before the scheduler, or Slurm, kills torchrun itself: the ranks have sessions of their own, and would stay.
    """
    slurm = ((description.get("spec") or {}).get("resources") or {}).get("slurm") or {}
    given = int(slurm.get("signal_seconds") or 0) if "SLURM_JOB_ID" in os.environ else 0
    return max(50, given - 10)


def _meeting_point(job: JobDir, description: dict[str, Any], first: bool) -> str:
    """Return `address:port` of the first machine's agent, which the others read from a file in the job's folder.

    Raises:
        StarError: the first machine did not come within MEETING_TIMEOUT seconds.
    """
    path = job.path / "meeting.json"
    this = f"{description.get('attempt', 0)}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    if first:
        with socket.socket() as listening:
            listening.bind(("", 0))
            port = listening.getsockname()[1]
        try:
            address = socket.gethostbyname(socket.gethostname())
        except OSError:
            address = "127.0.0.1"
        write_json(path, {"attempt": this, "endpoint": f"{address}:{port}"})
    deadline = time.monotonic() + MEETING_TIMEOUT
    while (found := read_json(path) or {}).get("attempt") != this:
        if time.monotonic() > deadline:
            raise StarError(f"{job.path}: the first of the job's machines did not come within {MEETING_TIMEOUT:.0f} s.")
        time.sleep(0.1)
    return str(found["endpoint"])
