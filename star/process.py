"""Identify processes of this machine so exactly that none is ever taken for another, or for dead."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl."""
_library = ctypes.CDLL(None)


def processes_can_be_told_apart() -> bool:
    """Whether this system says when a process started, as Linux does; without it a job could be taken for another."""
    return process_born(os.getpid()) is not None


def die_with_parent(signal: int) -> None:
    """Let this process get `signal` when its parent is gone (Linux): in its own session it would go on alone."""
    _library.prctl(SET_PARENT_DEATH_SIGNAL, int(signal), 0, 0, 0)


def process_born(pid: int) -> str | None:
    """Return `BOOT NAMESPACE TICKS`, which tells a process from all others that had the same process id.

    Ticks are the process's start, counted from the machine's boot. A start time by the clock would not do: it moves
    whenever the clock is set, and then every living process seems to be another one.

    Returns:
        None when there is no such process, only its exit code is left, or it is hidden from this user.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else f"{_here()} {fields[18]}"


def is_alive(pid: int, born: str) -> bool | None:
    """Whether the process of this machine for which `process_born` gave `born` still runs.

    Returns:
        None when that cannot be known: it is hidden from this user, or is in a container with its own process ids.
    """
    if not born:  # it could not find out about itself
        return None
    boot, _, rest = born.partition(" ")
    mine, _, namespace = _here().partition(" ")
    if boot != mine:
        return False
    if rest.partition(" ")[0] != namespace:
        return None
    found = process_born(pid)
    if found is not None:
        return found == born
    try:
        os.kill(pid, 0)
    except PermissionError:
        return None
    except OSError:
        pass
    return False  # gone, or only its exit code is left


@cache
def _here() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # a sandbox that shows less: all processes count as of one machine
        return "? ?"
