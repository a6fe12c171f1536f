"""The code that workers run: a copy of the package, taken when jobs are planned, so that later edits change nothing.

A snapshot is a folder in the home, named by a hash of its contents, with a record of where the code came from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import star
from star.rundir import Home, read_json, write_json
from star.scheduler.commit import commit_of

ORIGIN = "origin.json"
DIFF = "changes.diff"
PACKAGE = Path(star.__file__).resolve().parent


@dataclass(frozen=True)
class Snapshot:
    """One version of the code, as a copy in the home."""

    path: Path
    """Holds the folder `star`; workers import it from here."""
    origin: dict[str, Any]
    """`version`, `digest`, `commit`, `dirty`, `environment` and `lock`: the hashes of the installed packages and of the
    lock file."""

    @property
    def version(self) -> str:
        """`0.1.0+1a2b3c4d5e6f`, with `.dirty` after it when the package differs from the commit; without git, its own hash."""
        commit = self.origin["commit"]
        return f"{self.origin['version']}+{commit[:12] if commit else self.origin['digest']}{'.dirty' if self.origin['dirty'] else ''}"


def take(home: Home) -> Snapshot:
    """Return the snapshot of the code as it is now, and copy the code unless the home has it."""
    contents = _contents(PACKAGE)
    digest = _digest(contents)
    path = home.code / digest
    origin = read_json(path / ORIGIN)
    if origin is None:
        _remove_incomplete(path)
        _write(path, contents, digest)
    elif origin["dirty"] or origin["commit"] is None:
        commit = commit_of(PACKAGE, contents)
        if commit is not None and not commit.diff:  # the same code has been committed since
            write_json(path / ORIGIN, {**origin, "commit": commit.name, "dirty": False, "diff": None})
    with suppress(OSError):  # another user's
        os.utime(path)  # so that `gc` leaves it until a job has it
    return Snapshot(path, read_json(path / ORIGIN))


def _remove_incomplete(path: Path) -> None:
    """Remove an incomplete copy, unless another scheduler has put a complete one there since."""
    if read_json(path / ORIGIN) is not None:
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with suppress(OSError):  # there is none
        path.rename(aside)
        if read_json(aside / ORIGIN) is not None:
            aside.rename(path)
        else:
            shutil.rmtree(aside, ignore_errors=True)


def place_of(home: Home) -> Path:
    """Path of the snapshot of the code as it is now, whether it is there or not."""
    return home.code / _digest(_contents(PACKAGE))


def _write(path: Path, contents: dict[str, bytes], digest: str) -> None:
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    for name, content in contents.items():
        target = new / "star" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    commit = commit_of(PACKAGE, contents)
    diff = commit.diff if commit else ""
    (new / DIFF).write_text(diff)
    lock = PACKAGE.parent / "uv.lock"
    packages = sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions()})
    (new / "environment.txt").write_text("\n".join(packages) + "\n")
    origin = {
        "version": star.__version__,
        "digest": digest,
        "commit": commit.name if commit else None,
        "dirty": bool(diff),
        "diff": hashlib.sha256(diff.encode()).hexdigest()[:16] if diff else None,
        "environment": hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16],
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.exists() else None,
    }
    write_json(new / ORIGIN, origin)
    try:
        os.rename(new, path)
    except OSError:  # another scheduler was first
        shutil.rmtree(new)


def digest_of(path: Path) -> str:
    """Return the name that a snapshot's folder must have by its contents: their hash, 16 hexadecimal digits."""
    return _digest(_contents(path / "star"))


def _contents(package: Path) -> dict[str, bytes]:
    """Path in the package -> content of every readable file; what cannot be read cannot run either."""
    found = {}
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if not path.is_file() or not {"__pycache__", ".git"}.isdisjoint(name.parts):
            continue
        try:
            found[name.as_posix()] = path.read_bytes()
        except OSError:
            continue
    return found


def _digest(contents: dict[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name, content in contents.items():
        whole.update(os.fsencode(name) + f"\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()[:16]
