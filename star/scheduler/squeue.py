"""Questions to Slurm, by its own commands. Light: `status` asks too."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterable

log = logging.getLogger(__name__)


def accounted(numbers: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Of jobs that the controller has forgotten, where the cluster keeps accounts."""
    shown = ask(["sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode", "-j", ",".join(numbers)])
    found = {}
    for line in (shown or "").splitlines():
        number, state, code = line.split("|")
        found[number] = (state.split()[0], code, "")
    return found


def in_queue() -> dict[str, str]:
    """For `status`: Slurm's number of each job that is not over -> its state, and why it waits."""
    if shutil.which("squeue") is None:
        return {}
    shown = ask(["squeue", "--me", "--noheader", "--array", "-O", "JobArrayID:|,State:|,Reason:"])
    found = {}
    for line in (shown or "").splitlines():
        number, state, reason = (part.strip() for part in line.split("|"))
        found[number] = state.lower() + (f" ({reason})" if reason not in ("None", "") else "")
    return found


def ask(command: list[str]) -> str | None:
    """What a command of Slurm's prints; None when it fails, as when the controller is away."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired) as error:
        log.info("%s: %s", command[0], error)
        return None
    if done.returncode:
        log.info("%s: %s", command[0], done.stderr.strip())
        return None
    return done.stdout
