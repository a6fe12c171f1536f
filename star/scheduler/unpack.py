"""Import a bundle of `star-exp export` into a home: its checksums first, then what the home lacks, each job by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from star.errors import DataError
from star.rundir import Home, JobDir, read_json
from star.scheduler.bundle import FORMAT, MANIFEST
from star.scheduler.own import append, left_of, moving, put_back, put_back_one, whole_lines
from star.scheduler.records import record_path
from star.scheduler.scripts import script_digest
from star.scheduler.snapshot import digest_of


@dataclass(frozen=True)
class Taken:
    """What an import did."""

    experiment: str
    profile: str
    new: int
    """Number of jobs that were imported."""
    there: int
    """Number of jobs that the home had already."""
    unfinished: int
    """Those of them that are not done here."""
    kept: bool
    """Whether the home's own record of the experiment, its file and its reports stay: it has runs that the bundle lacks."""


DAMAGED = (
    *(tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError),
    *(AssertionError, IndexError, RecursionError, zlib.error),
)
"""What reading an archive raises that is none, or is damaged."""


def is_bundle(path: Path) -> bool:
    """Whether a file is a bundle of `star-exp export`, by its first member."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            return first is not None and first.name == MANIFEST
    except DAMAGED:
        return False


def check_file(source: Path) -> None:
    """Check that a bundle's path is that of a file.

    Raises:
        DataError: it is not.
    """
    if not source.is_file():
        what = "is a folder; give the file that `star-exp export` wrote" if source.is_dir() else "there is no such file"
        raise DataError(f"{source}: {what}.")


def unpack(source: Path, home: Home, reports: Path) -> Taken:
    """Import a bundle into a home. Jobs that the home has already stay as they are, except for added logged numbers.

    Raises:
        DataError: the file is missing, is no bundle, is damaged, or holds paths outside of its folder.
    """
    check_file(source)
    put_back(home)
    whole = False
    try:
        with tarfile.open(source) as archive:
            names = archive.getnames()
            manifest = _manifest(archive, source)
            _check(archive, manifest["files"], names, source)
            record = record_path(home, str(manifest["experiment"]), str(manifest["profile"]))
            inside = f"experiments/{record.name}"
            known, theirs = (_runs_of(one) for one in (read_json(record), _read(archive, inside, names)))
            kept = not known <= theirs
            whole = True
            if record.exists() and read_json(record) is None:  # half of one, which a kill or a full disk has left
                record.unlink()
            taken, there, unfinished = _take(archive, names, home, reports)
            if known and known < theirs:  # or what is here would hide what is new
                record.unlink()
                copies, tables = (
                    f"experiments/{record.stem}/",
                    f"reports/{manifest['experiment']}/{manifest['profile']}/",
                )
                for top, folder in ((copies, home.experiments), (tables, reports)):
                    if any(name.startswith(top) for name in names):
                        shutil.rmtree(folder / top.partition("/")[2], ignore_errors=True)
            _fill(archive, names, home, reports)
    except DAMAGED as error:
        if whole and isinstance(error, OSError):  # the home's
            raise
        said = (str(error) or type(error).__name__).splitlines()[0].removesuffix(": ").rstrip(":")
        raise DataError(f"{source}: is no bundle of `star-exp export`, or is damaged ({said}).") from None
    return Taken(str(manifest["experiment"]), str(manifest["profile"]), taken, there, unfinished, kept)


def _read(archive: tarfile.TarFile, name: str, names: list[str]) -> object:
    file = archive.extractfile(name) if name in names else None
    return None if file is None else json.loads(file.read())


def _runs_of(record: object) -> set[tuple[str, str]]:
    """(row, run) of all runs of an experiment's record; empty where there is none."""
    rows = record.get("rows") if isinstance(record, dict) else None
    return {(str(row["row"]), str(row["run"]["key"])) for row in rows or ()}


def _manifest(archive: tarfile.TarFile, source: Path) -> dict[str, object] | dict[str, dict[str, str]]:
    file = archive.extractfile(MANIFEST) if MANIFEST in archive.getnames() else None
    if file is None:
        raise DataError(f"{source}: is no bundle of `star-exp export`: it has no {MANIFEST}.")
    manifest: dict[str, object] = json.loads(file.read())
    if manifest["format"] != FORMAT:
        raise DataError(f"{source}: has format {manifest['format']}, this star reads {FORMAT}; update star.")
    names = [manifest["experiment"], manifest["profile"]]
    legal = all(isinstance(name, str) and re.fullmatch(r"[^/.][^/]*", name) for name in names)
    if not legal or not isinstance(manifest["files"], dict):
        raise DataError(
            f"{source}: {MANIFEST} does not say which experiment this is; get the bundle from where it was made."
        )
    return manifest


def _check(archive: tarfile.TarFile, sums: object, names: list[str], source: Path) -> None:
    assert isinstance(sums, dict)
    for name in names:
        parts = PurePosixPath(name).parts
        if name != MANIFEST and (name not in sums or ".." in parts or name.startswith("/")):
            raise DataError(f"{source}: holds {name}, which its manifest does not name.")
    for name, expected in sums.items():
        file = archive.extractfile(name) if name in names and archive.getmember(name).isfile() else None
        # ExFileObject has the readinto that typeshed's IO lacks
        if file is None or hashlib.file_digest(file, "sha256").hexdigest() != expected:  # type: ignore[arg-type]
            raise DataError(f"{source}: {name} is damaged or missing; get the file again.")
    for name in filter(_is_read, names):  # before anything is placed: a home with such a file could not be read
        file = archive.extractfile(name)
        if file is None or not _is_whole(name, json.loads(file.read())):
            raise DataError(
                f"{source}: {name} does not hold what a file of that name holds; get the bundle from where it was made."
            )


def _is_read(name: str) -> bool:
    """Whether commands read a member as JSON."""
    top, _, file = name.partition("/")
    kept = top in ("experiments", "manifests") and "/" not in file or (top == "jobs" and file.count("/") == 1)
    return file.endswith(".json") and (kept or (top == "reports" and file.endswith("/provenance.json")))


def _is_whole(name: str, content: object) -> bool:
    if not isinstance(content, dict):
        return False
    if not name.endswith("/result.json"):
        return True
    metrics, rest = content.get("metrics"), (content.get("provenance"), content.get("files", {}))
    return (
        isinstance(metrics, dict)
        and all(type(value) in (int, float) for value in metrics.values())
        and all(isinstance(one, dict) for one in rest)
        and all(type(content.get(name)) in (int, float) for name in ("seconds", "finished"))
    )


def _take(archive: tarfile.TarFile, names: list[str], home: Home, reports: Path) -> tuple[int, int, int]:
    """Extract what the home lacks, each job and each copy of code as a whole by one rename.

    Returns:
        (jobs that were imported, jobs that were there already, those of them that are not done).
    """
    jobs = sorted({name.split("/")[1] for name in names if name.startswith("jobs/")})
    new = unfinished = 0
    for job in jobs:
        here, inside = JobDir(home.jobs / job), f"jobs/{job}/{JobDir(home.jobs / job).own.name}"
        unfinished += here.job.exists() and not here.result.exists()
        if not _is_begun(here):  # asked only now: those before it took a while, and a scheduler may be at work
            new += 1
            left = left_of(here.path)
            with moving(home):
                if here.path.exists():  # it holds only what was logged, left by `rerun`
                    here.path.rename(left)
                try:
                    _place(archive, names, f"jobs/{job}", here.path)
                finally:
                    if left.exists():
                        put_back_one(left)
        elif inside in names:  # numbers logged elsewhere to a job that is here too
            file = archive.extractfile(inside)
            assert file is not None, "checked before"
            append(here, (line.decode().rstrip("\n") for line in whole_lines(file.read())))
    for digest in sorted({name.split("/")[1] for name in names if name.startswith("code/")}):
        if not (home.code / digest).exists():
            _place(archive, names, f"code/{digest}", home.code / digest, digest_of)
    for digest in sorted({name.split("/")[1] for name in names if name.startswith("scripts/")}):
        if not (home.scripts / digest).exists():
            _place(archive, names, f"scripts/{digest}", home.scripts / digest, script_digest)
    return new, len(jobs) - new, unfinished


def _fill(archive: tarfile.TarFile, names: list[str], home: Home, reports: Path) -> None:
    """Extract records, manifests and reports that are not there."""
    for top, folder in (("experiments", home.experiments), ("manifests", home.manifests), ("reports", reports)):
        for name in names:
            target = folder / name.removeprefix(f"{top}/")
            if name.startswith(f"{top}/") and not target.exists():
                _extract(archive, name, target, durable=True)


def _is_begun(folder: JobDir) -> bool:
    return folder.job.exists() or folder.result.exists() or (folder.path.exists() and not folder.own.exists())


def _place(
    archive: tarfile.TarFile,
    names: list[str],
    inside: str,
    target: Path,
    digest: Callable[[Path], str] | None = None,
) -> None:
    new = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for name in names:
            if name.startswith(f"{inside}/"):
                _extract(archive, name, new / name.removeprefix(f"{inside}/"))
        if digest is not None and digest(new) != target.name:
            raise DataError(f"{inside}: is not the code whose name it bears; get the bundle from where it was made.")
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _extract(archive: tarfile.TarFile, name: str, target: Path, durable: bool = False) -> None:
    """Write a member, under another name until it is whole; `durable` waits until it is on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    file = archive.extractfile(name)
    assert file is not None, "checked before"
    new = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}")
    try:
        with new.open("wb") as out:
            shutil.copyfileobj(file, out)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        if archive.getmember(name).mode & 0o100:  # a script's executable files stay executable
            new.chmod(new.stat().st_mode | 0o100)
        new.rename(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        new.unlink(missing_ok=True)
