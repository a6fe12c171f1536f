"""Workers as jobs of Slurm, by submitit: arrays of what is alike, requeued by Slurm itself, so the login node may be left.

Slurm's own commands say what became of a job, accounting or not; the job's folder says what it made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError

from star.errors import EngineError
from star.ledger.states import Claim
from star.rundir import Home, read_json, write_json
from star.scheduler.executor import WORKER, Exit, Handle, Start, Watched
from star.scheduler.slurm_task import Attempt
from star.scheduler.squeue import accounted, ask
from star.spec.resources import ResourceSpec

HOST = "@slurm"
EVERY = 2.0
"""Seconds between questions to Slurm."""
TOKEN = "slurm.json"
"""Written before a submission, so that it is found again when the scheduler dies before it learns the job's number."""
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


class SlurmExecutor:
    """Submits to the cluster that `sbatch` speaks to.

    Raises:
        EngineError: there is no Slurm here.
    """

    name = "slurm"
    queues = True
    chains = True

    def __init__(self, home: Home, worker: str = WORKER, every: float = EVERY) -> None:
        if shutil.which("sbatch") is None:
            raise EngineError("--executor slurm: there is no `sbatch` on the PATH; run on a login node of the cluster.")
        self.home, self.worker, self.every = home, worker, every
        self.folder = home.path / "slurm"
        self._seen: dict[str, tuple[str, str, str]] = {}
        """Slurm's number of a job -> (state, exit code, reason)."""
        self._names: dict[str, str] = {}
        self._looked = float("-inf")

    def limits(self) -> None:
        """Slurm decides what runs when."""

    def place(self, stage: str, resources: ResourceSpec, held: object) -> Claim:
        """Always: it waits in Slurm's queue."""
        return Claim(HOST)

    def submit(self, starts: Sequence[Start]) -> list[Handle]:
        """Submit jobs of one shape as one array."""
        handles: dict[str, Handle] = {}
        groups: dict[str, list[Start]] = {}
        for start in starts:
            groups.setdefault(repr((start.stage, _parameters(start))), []).append(start)
        for group in groups.values():
            for start, handle in zip(group, self._submit(group), strict=True):
                handles[start.name] = handle
        return [handles[start.name] for start in starts]

    def _submit(self, starts: list[Start]) -> list[Handle]:
        first, name = starts[0], f"star-{starts[0].stage}-{uuid.uuid4().hex[:12]}"
        for index, start in enumerate(starts):
            write_json(
                start.job.path / TOKEN, {"name": name, "index": index if len(starts) > 1 else None, "start": start.name}
            )
        try:
            executor = submitit.SlurmExecutor(self.folder, max_num_timeout=first.resources.slurm.timeouts)
            executor.update_parameters(job_name=name, **_parameters(first))
            executor.parameters["setup"] = [
                *first.resources.slurm.setup,
                f"export PYTHONPATH={first.code}${{PYTHONPATH:+:$PYTHONPATH}}",
            ]
            tasks = [Attempt(str(start.job.path), str(start.code), self.worker) for start in starts]
            jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
        except (FailedSubmissionError, subprocess.CalledProcessError, OSError, RuntimeError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise EngineError(f"Slurm refused {len(starts)} jobs: {str(said).strip().splitlines()[-1]}") from None
        self._looked = float("-inf")
        return [{"job": str(job.job_id)} for job in jobs]

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """One question to Slurm for all."""
        if time.monotonic() - self._looked > self.every:
            self._look()
        numbers = [self._number(one) for one in watched]
        lost = [number for number in numbers if number is not None and number not in self._seen]
        kept = accounted(lost) if lost else {}
        return [self._exit(number, kept) for number in numbers]

    def _exit(self, number: str | None, kept: dict[str, tuple[str, str, str]]) -> Exit | None:
        if number is None:
            return Exit(None, "it never reached Slurm")
        found = self._seen.get(number) or kept.get(number)
        if found is None:
            return Exit(None, "Slurm does not know it any more")
        state, code, reason = found
        if state not in OVER:
            return None
        if state in ("COMPLETED", "FAILED"):
            return Exit(_exit_code(code))
        return Exit(None, "DEPENDENCY" if reason == DEPENDENCY else state)

    def wait(self, seconds: float) -> None:
        """Slurm tells nobody when a job ends."""
        time.sleep(max(0.0, seconds))

    def stop(self, watched: Watched, kill: bool = False) -> None:
        """`scancel`: SIGTERM first, and after a while SIGKILL, as the cluster is set up; with `kill`, at once."""
        number = self._number(watched)
        if number is not None:
            if kill:
                ask(["scancel", "--quiet", "--full", "--signal=KILL", number])
            ask(["scancel", "--quiet", number])
            self._looked = float("-inf")

    def close(self) -> None:
        """Nothing is held."""

    def _number(self, watched: Watched) -> str | None:
        """Slurm's number of a job; by its name where nobody kept the number."""
        if watched.handle is not None:
            return str(watched.handle["job"])
        token = read_json(watched.job.path / TOKEN)
        if token is None or token["start"] != watched.name:
            return None
        array = self._names.get(token["name"])
        return None if array is None else array if token["index"] is None else f"{array}_{token['index']}"

    def _look(self) -> None:
        fields = "JobArrayID:|,State:|,exit_code:|,Reason:|,Name:256"
        shown = ask(["squeue", "--me", "--noheader", "--states=all", "--array", "-O", fields])
        if shown is None:
            return  # the controller is away: everything is as it was
        self._looked = time.monotonic()
        for line in shown.splitlines():
            number, state, code, reason, name = (part.strip() for part in line.split("|"))
            self._seen[number] = (state, code, reason)
            self._names[name] = number.split("_")[0]


def _exit_code(text: str) -> int:
    """Of `squeue`, which prints the status that wait() gives, and of `sacct`, which prints code:signal."""
    code, colon, number = text.partition(":")
    value = (int(code or 0) or -int(number or 0)) if colon else os.waitstatus_to_exitcode(int(text or 0))
    return 128 - value if value > 128 else value


def _parameters(start: Start) -> dict[str, Any]:
    """What submitit asks Slurm for."""
    resources, stage, slurm = start.resources, start.stage, start.resources.slurm
    processes, memory = resources.processes_of(stage), resources.memory_gb_of(stage)
    gpus = resources.gpus_of(stage)
    parameters: dict[str, Any] = {
        "time": resources.minutes_of(stage),
        "nodes": resources.nodes_of(stage),
        "ntasks_per_node": 1,
        "cpus_per_task": resources.threads_of(stage) * processes,
        "mem": None if memory is None else f"{int(memory * 1024)}M",
        "gpus_per_node": (f"{slurm.gpu_type}:{gpus}" if slurm.gpu_type else gpus) if gpus else None,
        "partition": slurm.partition,
        "qos": slurm.qos,
        "account": slurm.account,
        "constraint": slurm.constraint,
        "exclude": slurm.exclude,
        "signal_delay_s": slurm.signal_seconds,
        "array_parallelism": slurm.array_parallelism,
        "stderr_to_stdout": True,
        "dependency": f"afterok:{':'.join(handle['job'] for handle in start.after)}" if start.after else None,
        "additional_parameters": {
            "requeue": True,
            **({"kill-on-invalid-dep": "yes"} if start.after else {}),
            **slurm.options,
        },
    }
    return {name: value for name, value in parameters.items() if value is not None}
