"""Export an experiment as one file, which `star.scheduler.unpack` imports into another home.

A bundle holds specs, code and its changes, environment, numbers, curves, logs, tables, and the chosen weights. Its
manifest lists every file's SHA-256, and an import checks them before it writes anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import star
from star.errors import DataError
from star.rundir import REMOVED, Home, JobDir, read_json
from star.scheduler.declared import stage_of
from star.scheduler.own import whole_lines
from star.scheduler.plan import Plan
from star.scheduler.portable import portable_job, portable_record
from star.scheduler.records import record_path, written_folder

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
        inside = f"reports/{plan.experiment.name}/{plan.experiment.profile}/{path.relative_to(tables).as_posix()}"
        files[inside] = path.read_bytes()  # a run that ends writes them again
    _write(target, files, {"experiment": plan.experiment.name, "profile": plan.experiment.profile, "weights": weights})
    return len(files)


def _job_files(folder: JobDir, stage: str, weights: str) -> dict[str, bytes | Path]:
    inside = f"jobs/{folder.path.name}"
    # the end of a log is written after the result; a curve is complete by then
    files: dict[str, bytes | Path] = {
        f"{inside}/{path.name}": path.read_bytes() for path in (folder.result, folder.log) if path.exists()
    }
    if folder.metrics.exists():
        files[f"{inside}/{folder.metrics.name}"] = folder.metrics
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
                if isinstance(content, bytes):
                    _add(archive, name, content)
                elif _add_file(archive, name, content) != sums[name]:
                    raise DataError(f"{content}: was written to while it was read; give the same command again.")
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, name: str, path: Path) -> str:
    """Add a file; returns the SHA-256 of what was added."""
    with path.open("rb") as file:
        hashing = _Hashing(file)
        archive.addfile(archive.gettarinfo(arcname=name, fileobj=file), hashing)
    return hashing.sum.hexdigest()


class _Hashing(io.RawIOBase):
    """A file that is read, and the SHA-256 of what was read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.sum.update(content)
        return content


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
