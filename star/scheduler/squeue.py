"""Queries to Slurm by its own commands. This module imports little, because `status` uses it too."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from star.chunks import chunks

CHUNK = 400
"""Most jobs in one query."""
FIELDS = "JobArrayID:|,State:|,exit_code:|,Reason:|,Name:256"
log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What Slurm says of a job."""

    state: str
    code: str
    reason: str


def by_number(numbers: Iterable[str]) -> dict[str, Seen] | None:
    """Return Slurm's number -> what Slurm says of the job, for those that the controller still knows.

    None when it does not answer. Jobs of all users are found: a colleague's jobs are adopted too.
    """
    found: dict[str, Seen] = {}
    for part in chunks(dict.fromkeys(number.split("_")[0] for number in numbers), CHUNK):
        shown = ask(["squeue", "--noheader", "--states=all", "--array", f"--jobs={','.join(part)}", "-O", FIELDS])
        if shown is None:
            return None
        found |= {number: seen for number, _, seen in _lines(shown)}
    return found


def by_name(names: Iterable[str]) -> dict[str, str] | None:
    """Return name of a job or an array -> Slurm's number of it; None when the controller does not answer."""
    found: dict[str, str] = {}
    for part in chunks(dict.fromkeys(names), CHUNK):
        shown = ask(["squeue", "--noheader", "--states=all", "--array", f"--name={','.join(part)}", "-O", FIELDS])
        if shown is None:
            return None
        found |= {name: number.split("_")[0] for number, name, _ in _lines(shown)}
    return found


def _lines(shown: str) -> Iterator[tuple[str, str, Seen]]:
    for line in shown.splitlines():
        number, state, code, reason, name = (part.strip() for part in line.split("|", 4))
        yield number, name, Seen(state, code, reason)


def accounted(numbers: Iterable[str]) -> dict[str, Seen]:
    """Return what accounting says of jobs that the controller has forgotten; empty where the cluster has none."""
    found = {}
    for part in chunks(numbers, CHUNK):
        shown = ask(["sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode", "-j", ",".join(part)])
        for line in (shown or "").splitlines():
            number, state, code = line.split("|")
            found[number] = Seen(state.split()[0], code, "")
    return found


def in_queue() -> dict[str, str]:
    """Return Slurm's number of each of this user's jobs that is not over -> its state, and why it waits."""
    if shutil.which("squeue") is None:
        return {}
    shown = ask(["squeue", "--noheader", "--array", "--me", "-O", FIELDS], 2.0)  # who looks does not wait for it
    waits = {number: seen for number, _, seen in _lines(shown or "")}
    return {
        number: seen.state.lower() + (f" ({seen.reason})" if seen.reason not in ("None", "") else "")
        for number, seen in waits.items()
    }


def ask(command: list[str], patience: float = 60.0) -> str | None:
    """Return what a command of Slurm prints; None when it fails, or takes more than `patience` seconds: the controller is away."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=patience, env=os.environ | {"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.info("%s: %s", command[0], error)
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # all jobs are forgotten: that is an answer too
        log.info("%s: %s", command[0], done.stderr.strip())
        return None
    return done.stdout
