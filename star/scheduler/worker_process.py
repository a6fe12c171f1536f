"""How a worker's process is started, whoever starts it: its environment, its log, a session of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def worker_environment(code: str | Path, attempt: int, **more: str) -> dict[str, str]:
    """This process's environment, with the code snapshot first on the import path and the attempt's number.

    Unless OMP_WAIT_POLICY or GOMP_SPINCOUNT says otherwise, threads that wait for each other spin for a tenth of a
    millisecond and then sleep. libgomp, which PyTorch's builds for Linux carry, spins much longer: where other
    processes want the cores too, a step of two threads then took fifty times as long.
    """
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    told = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    spin = {} if told else {"GOMP_SPINCOUNT": "10000"}
    return {**os.environ, **spin, "PYTHONPATH": path, "STAR_ATTEMPT": str(attempt), **more}


def start_worker(
    job: str, worker: str, code: str, environment: Mapping[str, str], before: Callable[[], object] | None = None
) -> subprocess.Popen[bytes]:
    """Start `python -m worker JOB` in the code snapshot, in a session of its own; its output goes to the job's log.

    Args:
        job: the job's folder.
        worker: the module that is run.
        before: called in the new process before the module runs.
    """
    with (Path(job) / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", worker, job],
            cwd=code,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=before,
        )
