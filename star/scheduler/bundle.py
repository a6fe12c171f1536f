"""Export an experiment as one file, and import it into another home.

A bundle holds specs, code and its changes, environment, numbers, curves, logs, tables, and the chosen weights. Its
manifest lists every file's SHA-256, and an import checks them before it writes anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import star
from star.errors import DataError
from star.rundir import REMOVED, Home, JobDir, read_json
from star.scheduler.declared import stage_of
from star.scheduler.own import append, whole_lines
from star.scheduler.plan import Plan
from star.scheduler.portable import portable_job, portable_record
from star.scheduler.records import record_path, written_folder
from star.scheduler.scripts import script_digest
from star.scheduler.snapshot import digest_of

FORMAT = 1
MANIFEST = "manifest.json"
OTHER_ARCHIVES = (".zip", ".7z", ".rar", ".xz", ".bz2", ".zst")
"""Endings of files that a bundle, a tar file compressed by gzip, is not."""
WEIGHTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "student": ("student.pt", "vq.pt"),
    "best": ("best.pt", "student.pt", "vq.pt"),
    "all": ("*",),
}
"""Option -> output files of a job that are exported, besides pictures and figure data. `best` takes the last weights
where no best ones were selected."""


def pack(plan: Plan, home: Home, reports: Path, weights: str, target: Path) -> int:
    """Write an experiment to `target` (.tar.gz); returns the number of files.

    Raises:
        DataError: the experiment was never run in this home.
    """
    record = record_path(home, plan.experiment.name, plan.experiment.profile)
    if not record.exists():
        raise DataError(
            f"{plan.experiment.name}: was never run in {home.path}; `star-exp run {plan.experiment.file}` does."
        )
    written = written_folder(home, plan.experiment.name, plan.experiment.profile)
    copy = f"experiments/{written.name}/{plan.experiment.name}.yaml"
    files: dict[str, bytes | Path] = {
        f"experiments/{record.name}": _json(portable_record(read_json(record) or {}, copy)),
    }
    for path in _files(written):
        files[f"experiments/{written.name}/{path.relative_to(written).as_posix()}"] = path
    if not written.exists() and Path(plan.experiment.file).exists():  # recorded by an older version
        files["experiment.yaml"] = Path(plan.experiment.file)
    snapshots, scripts = set(), set()
    for job in plan.jobs.values():
        folder = home.job(job.stage, job.key)
        if folder.read_result() is not None:
            files |= _job_files(folder, job.stage, weights)
            told = read_json(folder.job) or {}
            snapshots.add(told.get("snapshot"))
            scripts |= {told.get("script"), *(told.get("plugins") or {}).values()}
    for name in sorted(Path(snapshot).name for snapshot in filter(None, snapshots)):  # the home may have moved since
        for path in _files(home.code / name):
            files[f"code/{name}/{path.relative_to(home.code / name).as_posix()}"] = path
    for name in sorted(Path(script).name for script in filter(None, scripts)):
        for path in _files(home.scripts / name):
            files[f"scripts/{name}/{path.relative_to(home.scripts / name).as_posix()}"] = path
    files |= {f"manifests/{path.name}": path for path in plan.inputs}
    tables = reports / plan.experiment.name / plan.experiment.profile
    for path in _files(tables):
        files[f"reports/{plan.experiment.name}/{plan.experiment.profile}/{path.relative_to(tables).as_posix()}"] = path
    _write(target, files, {"experiment": plan.experiment.name, "profile": plan.experiment.profile, "weights": weights})
    return len(files)


def _job_files(folder: JobDir, stage: str, weights: str) -> dict[str, bytes | Path]:
    inside = f"jobs/{folder.path.name}"
    kept = (folder.result, folder.metrics, folder.log)
    files: dict[str, bytes | Path] = {f"{inside}/{path.name}": path for path in kept if path.exists()}
    if told := read_json(folder.job):
        files[f"{inside}/{folder.job.name}"] = _json(portable_job(told))
    if folder.own.exists():  # read once: another process may append to it meanwhile
        files[f"{inside}/{folder.own.name}"] = b"".join(whole_lines(folder.own.read_bytes()))
    outputs = {path.relative_to(folder.out): path for path in _files(folder.out)}
    declared = stage_of(stage, folder)
    shown = declared.files if declared else ()
    chosen = {
        name: path
        for name, path in outputs.items()
        if name.as_posix() in shown or _goes_along(name, weights, folder.out)
    }
    files |= {f"{inside}/out/{name.as_posix()}": path for name, path in chosen.items()}
    if len(chosen) < len(outputs) or not folder.has_output():
        files[f"{inside}/out/{REMOVED}"] = b""
    return files


def _json(value: dict[str, object]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _goes_along(name: Path, weights: str, out: Path) -> bool:
    if weights == "all":
        return True
    chosen = WEIGHTS[weights]
    if weights == "best" and (out / "best.pt").exists():
        chosen = ("best.pt", "vq.pt")
    return name.as_posix() in chosen


def _files(folder: Path) -> Iterator[Path]:
    if folder.exists():
        yield from sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and path.name != REMOVED and "__pycache__" not in path.parts
        )


def _write(target: Path, files: dict[str, bytes | Path], about: dict[str, str]) -> None:
    sums = {name: _sha256(content) for name, content in files.items()}
    manifest = {"format": FORMAT, "star": star.__version__, "created": time.time(), **about, "files": sums}
    new = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tarfile.open(new, "w:gz", compresslevel=6) as archive:
            _add(archive, MANIFEST, _json(manifest))
            for name, content in files.items():
                if isinstance(content, Path):
                    archive.add(content, name)
                else:
                    _add(archive, name, content)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    try:
        with tarfile.open(source) as archive:
            names = archive.getnames()
            manifest = _manifest(archive, source)
            _check(archive, manifest["files"], names, source)
            record = record_path(home, str(manifest["experiment"]), str(manifest["profile"]))
            inside = f"experiments/{record.name}"
            known, theirs = (_runs_of(one) for one in (read_json(record), _read(archive, inside, names)))
            kept = not known <= theirs
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
        lines: list[bytes] = []
        unfinished += here.job.exists() and not here.result.exists()
        if not _is_begun(here):  # asked only now: those before it took a while, and a scheduler may be at work
            new += 1
            lines = whole_lines(here.own.read_bytes()) if here.own.exists() else []
            shutil.rmtree(here.path, ignore_errors=True)  # it holds only these lines, left by `rerun`
            _place(archive, names, f"jobs/{job}", here.path)
        elif inside in names:  # numbers logged elsewhere to a job that is here too
            file = archive.extractfile(inside)
            assert file is not None, "checked before"
            lines = whole_lines(file.read())
        if lines:
            append(here, (line.decode().rstrip("\n") for line in lines))
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
                _extract(archive, name, target)


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
    for name in names:
        if name.startswith(f"{inside}/"):
            _extract(archive, name, new / name.removeprefix(f"{inside}/"))
    if digest is not None and digest(new) != target.name:
        shutil.rmtree(new)
        raise DataError(f"{inside}: is not the code whose name it bears; get the bundle from where it was made.")
    new.rename(target)


def _extract(archive: tarfile.TarFile, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    file = archive.extractfile(name)
    assert file is not None, "checked before"
    with target.open("wb") as out:
        shutil.copyfileobj(file, out)
    if archive.getmember(name).mode & 0o100:  # a script's executable files stay executable
        target.chmod(target.stat().st_mode | 0o100)
