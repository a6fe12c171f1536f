"""A job's folder: where its files are, and how they are written so that no reader ever sees half of one.

job.json        what to do: stage, key, spec, inputs, and   written by the scheduler
                which attempt this is (the fencing number)
beat            touched while a worker lives                written by the worker
log.txt         what the worker printed, all attempts       written by the worker process
metrics.jsonl   one line per step: {"time", "step", ...}    written by the worker
usage.jsonl     CPU, memory and GPU use while it runs       written by the worker
stop.json       that an attempt be stopped, or killed       written by a scheduler on another machine
own.jsonl       user-logged numbers, measured afterwards    written by `log`, `report`
progress.json   how far the job is                          written by the worker
out/            the job's output                            moved into place when complete
result.json     the job's numbers and provenance            written last; its presence means done
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import uuid
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

from star.errors import DataError
from star.words import shown

log = logging.getLogger(__name__)

PROBE = 1 << 16  # bytes that are written to test whether the disk has room


class ExitCode(IntEnum):
    """How a worker ends: done; the user's mistake; another worker holds the job, or a newer attempt has begun; failed; no space
    left on the disk; stopped on request; out of time, and not to be started again by the cluster."""

    DONE = 0
    USER_ERROR = 2
    BUSY = 3
    FAILED = 70
    NO_SPACE = 74
    PREEMPTED = 75
    TIMED_OUT = 76


DONE, USER_ERROR, BUSY, FAILED, NO_SPACE, PREEMPTED, TIMED_OUT = ExitCode
REMOVED = ".removed"
"""Marker file in an `out` folder: its large files were removed, and are made again when they are needed."""
STOPPED = "Stopped"
"""Class in failure.json when a job stopped on request, which is no failure."""


class _At:
    """A path inside a job's folder, made only when it is used, because plans look at thousands of folders."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, job: JobDir, owner: type | None = None) -> Path:
        return job.path / self.name


class JobDir:
    """The folder of one job: the paths in it, and what its files say."""

    job = _At("job.json")
    log = _At("log.txt")
    metrics = _At("metrics.jsonl")
    usage = _At("usage.jsonl")
    own = _At("own.jsonl")
    progress = _At("progress.json")
    out = _At("out")
    result = _At("result.json")
    failure = _At("failure.json")
    lock = _At("lock")
    beat = _At("beat")
    stop = _At("stop.json")
    scratch = _At("scratch")
    checkpoints = _At("checkpoints")

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_progress(self) -> Any:
        """The worker's progress; None where there is none, or it cannot be read now: it is only shown."""
        try:
            return read_json(self.progress)
        except OSError:
            return None

    def read_result(self) -> dict[str, Any] | None:
        """What result.json says; None if there is none, or none that is whole: the job then counts as not computed."""
        found = read_json(self.result)
        return found if isinstance(found, dict) and isinstance(found.get("metrics"), dict) else None

    def has_output(self) -> bool:
        """Whether the job's output is still there and complete; `gc` may have removed it and kept the numbers."""
        return self.out.exists() and not (self.out / REMOVED).exists() and not self.lost_files()

    def lost_files(self) -> list[str]:
        """Output files that result.json names, and that are gone or have another size now."""
        named = (self.read_result() or {}).get("files") or {}
        return [name for name, size in named.items() if _size(self.out / name) != size]

    def was_deleted(self) -> bool:
        """Whether all or part of the output is gone, and `gc` did not remove it."""
        return not self.has_output() and not (self.out / REMOVED).exists()

    def is_complete(self) -> bool:
        """Whether result and output are there now.

        The folder is listed, because a network file system may cache for a minute that a file was missing, but asks its
        server when a folder is listed.
        """
        try:
            names = set(os.listdir(self.path))
        except FileNotFoundError:
            return False
        return {"result.json", "out"} <= names and self.read_result() is not None and self.has_output()

    def attempt(self) -> int:
        """Number of the newest attempt that a scheduler has begun; the worker of an older one must write nothing.

        0 without a job.json.
        """
        return int((read_json(self.job) or {}).get("attempt", 0))

    def seconds_since_beat(self) -> float | None:
        """Seconds since an attempt began or a worker's last heartbeat, by the clock of the file system alone.

        None where neither is known; 0 where the folder cannot be written, so that the time is unknown.
        """
        signs = [path.stat().st_mtime for path in (self.beat, self.job) if path.exists()]
        if not signs:
            return None
        probe = self.path / f".now.{os.getpid()}"
        try:
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink(missing_ok=True)
        except OSError:  # a full disk, or somebody else's folder: nothing is known
            return 0.0
        return now - max(signs)

    def locked(self) -> bool:
        """Whether a worker holds the lock of this job now; False on a file system without locks."""
        try:
            with self.lock.open("r+") as file:  # NFS gives such a lock on a file that is open for writing only
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:  # not there, somebody else's, or a file system without locks
            return False


class Home:
    """The folder that holds everything `star` writes; reports are in it too unless they are written elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.jobs = self.path / "jobs"
        self.data = self.path / "data"
        self.references = self.path / "references"
        self.ledger = self.path / "ledger.sqlite"
        self.mlflow = self.path / "mlflow.sqlite"
        self.artifacts = self.path / "mlartifacts"
        self.code = self.path / "code"
        self.scripts = self.path / "scripts"
        self.experiments = self.path / "experiments"
        self.forgotten = self.experiments / "forgotten"
        self.logs = self.path / "logs"
        self.aside = self.path / "aside"
        self.studies = self.path / "studies.sqlite"
        self.locks = self.path / "locks"
        self.manifests = self.path / "manifests"
        self.written = self.path / "written"

    def job_folders(self) -> set[str]:
        """Names of all jobs' folders that are there, from one listing instead of a look for each job."""
        try:
            return {entry.name for entry in os.scandir(self.jobs)}
        except FileNotFoundError:
            return set()

    def identity(self, known: str | None = None) -> str:
        """Return the home's id, the same wherever the home is mounted; it is made when there is none.

        Args:
            known: the id that the home had, to restore it where home.json is damaged.
        """
        path = self.path / "home.json"
        found = read_json(path)
        if path.is_file() and not (isinstance(found, dict) and found.get("id")):
            found = {"id": known or uuid.uuid4().hex}
            write_json(path, found)
        while found is None:
            self.path.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".home.json.{uuid.uuid4().hex}")
            write_json(new, {"id": uuid.uuid4().hex})
            try:
                os.link(new, path)  # fails when another process was first
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                if not path.exists():
                    new.rename(path)
            new.unlink(missing_ok=True)
            found = read_json(path)
        return str(found["id"])

    def begin(self) -> None:
        """Make sure that this folder is there and may be written, before anything is computed.

        Raises:
            DataError: it cannot be written; the message says why.
        """
        place = probe = self.path / f".home.json.{uuid.uuid4().hex}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for place in (self.path, *([self.jobs] if self.jobs.exists() else [])):
                probe = place / f".home.json.{uuid.uuid4().hex}"
                probe.write_bytes(b"\0" * PROBE)
                probe.unlink()
            for place in (self.ledger, self.mlflow):
                if place.is_file() and not os.access(place, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        except OSError as error:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise DataError(disk_full(self.path)) from None
            raise DataError(
                f"--home {shown(self.path)}: cannot be written ({shown(place)}: {error.strerror}); give another folder, or ask "
                "its owner. What only looks works: status, show, report, plan, export."
            ) from None

    def job(self, stage: str, key: str) -> JobDir:
        """The folder of the job with this key."""
        return JobDir(self.jobs / f"{stage}-{key}")


def listing(folder: Path) -> dict[str, int]:
    """Path of every file below a folder, relative to it -> its size in bytes."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def disk_full(path: Path) -> str:
    """Return the message for a disk that has no space left for something at `path`."""
    folder = next((one for one in (path, *path.absolute().parents) if one.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free / 1e6
    return (
        f"the disk of {shown(path)} is full ({free:,.0f} MB free); make room (`star-exp gc` lists what may go, `gc --delete` removes "
        "it), then the same command goes on."
    )


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write `value` as JSON, so that a reader sees the old file or the new one; see `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode(), durable)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a temporary file beside `path`, and rename it over `path`; a reader sees the old file or the new one.

    Args:
        durable: sync the file first, so that it outlives a power cut.

    Raises:
        OSError: it cannot be written; the temporary file is removed, and the error names `path`.
    """
    # containers and machines that share a home may share process ids
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # leave no half of it on a full disk
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None when there is none (yet), or a power cut has left half of it."""
    try:
        try:
            return json.loads(path.read_text())
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return json.loads(path.read_text())  # NFS: it was replaced while it was read, and the new one is there
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
