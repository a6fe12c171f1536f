"""Runs workers as Slurm jobs, by submitit: similar jobs go as one array, and Slurm itself requeues them, so that no
scheduler has to stay on the login node.

Slurm's own commands say what became of a job, with or without accounting; the job's folder holds what it made. A query
that Slurm does not answer proves nothing: a job counts as gone only after two answers without it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

import submitit
from submitit.core.utils import FailedSubmissionError

from star.errors import ExecutorError
from star.ledger.states import Allocation
from star.rundir import Home, JobDir, read_json, write_json
from star.scheduler.executor import SILENCE, WORKER, Exit, Handle, Start, Watched
from star.scheduler.slurm_script import Part, parts_of
from star.scheduler.slurm_task import Attempt
from star.scheduler.squeue import Seen, accounted, ask, by_name, by_number
from star.spec.resources import Resources

EVERY = 2.0
"""Seconds between queries to Slurm."""
TOKEN = "slurm.json"
"""File written before a submission, by which it is found when the scheduler dies before it learns the job's number."""
OVER = {
    *(
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "BOOT_FAIL",
        "DEADLINE",
        "PREEMPTED",
    ),
    *("LAUNCH_FAILED", "REVOKED"),
}
DEPENDENCY = "DependencyNeverSatisfied"
TOO_MANY = re.compile("array specification|submit limit|MaxSubmit|MaxJobCount|MaxArraySize", re.IGNORECASE)
"""What Slurm says when it would take fewer jobs at once."""


class SlurmExecutor:
    """Submits jobs to the Slurm cluster of this machine.

    Raises:
        ExecutorError: there is no `sbatch` here, or Slurm does not answer.
    """

    name = "slurm"
    queues = True
    chains = True

    def __init__(self, home: Home, worker: str = WORKER, every: float = EVERY) -> None:
        if shutil.which("sbatch") is None:
            raise ExecutorError(
                "--executor slurm: there is no `sbatch` on the PATH; run on a login node of the cluster."
            )
        if ask(["squeue", "--noheader", "--me"]) is None:
            raise ExecutorError(
                "--executor slurm: Slurm does not answer `squeue --me`; is this a login node, and its controller up?"
            )
        self.home, self.worker, self.every = home, worker, every
        self.folder = home.path / "slurm"
        self._seen: dict[str, Seen] = {}
        """Slurm's number of a job -> what Slurm said of it in its newest answer."""
        self._missed: dict[str, int] = {}
        """Slurm's number of a job -> number of answers in a row without that job."""
        self._looked = float("-inf")

    def limits(self) -> None:
        """Return None: Slurm decides what runs when."""

    def never(self, stage: str, resources: Resources) -> None:
        """Return None: Slurm refuses what it can never run when it is submitted."""

    def place(self, stage: str, resources: Resources, held: object) -> Allocation:
        """Accept every job, on no particular machine: it waits in Slurm's queue until there is room."""
        return Allocation(None)

    def submit(self, starts: Sequence[Start]) -> list[Handle | ExecutorError]:
        """Submit the attempts, similar ones as one array; returns a handle or an error for each."""
        done: dict[str, Handle | ExecutorError] = {}
        for part in parts_of(starts):
            done |= zip((start.name for start in part.starts), self._in_parts(part), strict=True)
        self._looked = float("-inf")
        return [done[start.name] for start in starts]

    def _in_parts(self, part: Part) -> list[Handle | ExecutorError]:
        """Submit a part, in halves and so on where Slurm refuses that many at once; when it refuses one, it is full."""
        done: list[Handle | ExecutorError] = []
        rest = [part]
        while rest:
            some = rest.pop(0)
            found = self._submit(some)
            refused = next((one for one in found if isinstance(one, ExecutorError)), None)
            count = len(some.starts)
            if refused is None or part.dependency is not None or not TOO_MANY.search(str(refused)):
                done += found
            elif count > 1:
                halves = some.starts[: count // 2], some.starts[count // 2 :]
                rest[:0] = [replace(some, starts=half) for half in halves]
            else:
                done += [refused] * (len(part.starts) - len(done))
                break
        return done

    def _submit(self, part: Part) -> Sequence[Handle | ExecutorError]:
        starts, name = part.starts, part.name(uuid.uuid4().hex[:12])
        try:
            for index, start in enumerate(starts):
                token = {"name": name, "index": index if len(starts) > 1 else None, "start": start.name}
                write_json(start.job.path / TOKEN, token)
            executor = submitit.SlurmExecutor(self.folder, max_num_timeout=part.timeouts, python=part.python)
            executor.update_parameters(job_name=name, **part.parameters())
            tasks = [Attempt(str(start.job.path), str(start.code), self.worker, start.attempt) for start in starts]
            jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
            return [{"job": str(job.job_id)} for job in jobs]
        except (FailedSubmissionError, subprocess.CalledProcessError, OSError, RuntimeError) as error:
            accepted = (by_name([name]) or {}).get(name)  # `sbatch` may time out although Slurm has accepted the job
            if accepted is not None:
                return [{"job": _element(accepted, index, len(starts))} for index in range(len(starts))]
            said = getattr(error, "stderr", None) or str(error)
            return [ExecutorError(f"Slurm refused it: {str(said).strip().splitlines()[-1]}")] * len(starts)

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """Return each attempt's Exit, by one query for all; None while it waits or runs, or Slurm does not answer."""
        numbers = self._numbers(watched)
        if numbers is None:
            return [None] * len(watched)
        wanted = [number for number in numbers if number is not None]
        if time.monotonic() - self._looked > self.every or not all(
            number in self._seen or number in self._missed for number in wanted
        ):
            found = by_number(wanted)
            if found is None:
                return [None] * len(watched)
            self._looked = time.monotonic()
            self._seen = found
            missing = [number for number in wanted if number not in found]
            self._missed = {number: self._missed.get(number, 0) + 1 for number in missing}
            self._seen |= accounted(missing) if missing else {}
        return [self._exit(number, one.job) for number, one in zip(numbers, watched, strict=True)]

    def _exit(self, number: str | None, job: JobDir) -> Exit | None:
        if number is None:
            return Exit(None, "it never reached Slurm")
        found = self._seen.get(number)
        if found is None and self._missed.get(number, 0) > 1 and job.is_complete():
            return Exit(None)
        if found is None:
            silent = job.seconds_since_beat()  # with PrivateData=jobs, a colleague's jobs are not shown
            is_gone = self._missed.get(number, 0) > 1 and (silent is None or silent > SILENCE)
            return Exit(None, "Slurm does not know it any more") if is_gone else None
        if found.state not in OVER:
            return None
        if found.state in ("COMPLETED", "FAILED"):
            return Exit(_exit_code(found.code))
        return Exit(None, "DEPENDENCY" if found.reason == DEPENDENCY else found.state)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`: Slurm does not report when a job ends."""
        time.sleep(max(0.0, seconds))

    def stop(self, watched: Watched, kill: bool = False) -> None:
        """Run `scancel`: SIGTERM first, and SIGKILL after the delay that the cluster sets; with `kill`, at once."""
        for number in filter(None, self._numbers([watched]) or ()):
            if kill:
                subprocess.run(["scancel", "--quiet", "--full", "--signal=KILL", number], check=False)
            subprocess.run(["scancel", "--quiet", number], check=False)
            self._looked = float("-inf")

    def close(self) -> None:
        """Do nothing: this executor holds no connection, and its jobs go on in Slurm."""

    def _numbers(self, watched: Sequence[Watched]) -> list[str | None] | None:
        """Return Slurm's number of each job, found by its name where no handle was saved; None when Slurm is away.

        A job that never reached Slurm has the number None.
        """
        tokens = {}
        for one in watched:
            token = read_json(one.job.path / TOKEN) if one.handle is None else None
            if token is not None and token["start"] == one.name:
                tokens[one.name] = token
        names = by_name([token["name"] for token in tokens.values()]) if tokens else {}
        if names is None:
            return None
        numbers: list[str | None] = []
        for one in watched:
            token = tokens.get(one.name)
            array = names.get(token["name"]) if token else None
            if one.handle is not None:
                numbers.append(str(one.handle["job"]))
            elif token is None or array is None:
                numbers.append(None)
            else:
                numbers.append(array if token["index"] is None else f"{array}_{token['index']}")
        return numbers


def _element(array: str, index: int, count: int) -> str:
    return f"{array}_{index}" if count > 1 else array


def _exit_code(text: str) -> int:
    """Parse the exit code from `squeue`, a status of wait(), or from `sacct`, CODE:SIGNAL; negative: a signal."""
    code, colon, number = text.partition(":")
    value = (int(code or 0) or -int(number or 0)) if colon else os.waitstatus_to_exitcode(int(text or 0))
    return 128 - value if value > 128 else value
