"""Copy what a job reads of other jobs to a local disk of the machine, before it is read again and again."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

OLD = 86400.0
"""Seconds since its last use after which a copy of an output that was made again goes."""
MARGIN = 1.1
"""Free space that a copy needs, in multiples of its size."""
log = logging.getLogger(__name__)


def near(folder: Path, scratch: str) -> Path:
    """Return the path of a copy of `folder` below `scratch`, or `folder` itself when it cannot be copied.

    The jobs of a machine share one copy, which stays for later ones; jobs that need it while it is made wait for it.

    Args:
        folder: the `out` folder of a job that is done; when it is computed again, another copy is made, and this one goes
            if nothing began to read it for a day.
        scratch: a path, in which `$NAME` and `~` are replaced from the machine's environment.
    """
    place = Path(os.path.expanduser(os.path.expandvars(scratch)))
    if "$" in str(place) or not place.is_absolute():
        log.warning(
            "resources.scratch: %s is no absolute path on this machine; %s is read where it lies", scratch, folder
        )
        return folder
    try:
        return _copied(folder, place / f"star-{os.getuid()}")
    except OSError as error:
        log.warning("resources.scratch: %s; %s is read where it lies", error, folder)
        return folder


def _names(folder: Path) -> tuple[str, str]:
    """Name of a job's copies, which tells homes apart, and what is added for one: its result, which tells attempts apart."""
    result = folder.parent / "result.json"
    place, told = str(folder.resolve()).encode(), result.read_bytes() if result.exists() else b""
    hashes = [hashlib.blake2s(one, digest_size=6).hexdigest() for one in (place, told)]
    return f"{folder.parent.name}-{hashes[0]}", hashes[1]


def _copied(folder: Path, place: Path) -> Path:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise PermissionError(f"{place} belongs to somebody else")
    name, attempt = _names(folder)
    copy = place / f"{name}-{attempt}"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if copy.exists():
            os.utime(copy)  # by which its age counts
            log.info("%s is read from %s", folder, copy)
            return copy
        for old in place.glob(f"{name}-*"):  # of attempts whose output is gone, and halves of a process that was killed
            if old.suffix == ".half" or time.time() - old.stat().st_mtime > OLD:
                shutil.rmtree(old, ignore_errors=True)
        size, free = (
            sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            shutil.disk_usage(place).free,
        )
        if size * MARGIN > free:
            log.warning(
                "resources.scratch: %s has room for %d bytes, %s needs %d; it is read where it lies",
                place,
                free,
                folder,
                size,
            )
            return folder
        half = Path(f"{copy}.half")
        try:
            shutil.copytree(folder, half)
        except OSError:
            shutil.rmtree(half, ignore_errors=True)
            raise
        half.rename(copy)  # all at once: nobody reads half a copy
        os.utime(copy)  # it has the original's time else
        log.info("%s was copied to %s: %d bytes", folder, copy, size)
        return copy
