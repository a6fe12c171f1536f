"""Numbers that users log to a run. They are kept in a job's folder: there they outlive MLflow's database, and bundles
include them.

Each line of HOME/jobs/STAGE-KEY/own.jsonl is {"time", "step", "run", "metrics"}, where "run" is the run's key, or null
for all runs of this job. `star-exp log` writes them. Numbers that a user logs to the MLflow run itself are copied here
by the next report, run or export.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from star.errors import DataError
from star.metric_log import read_metrics
from star.rundir import Home, JobDir
from star.spec.builtin import builtin_stages
from star.spec.graph import curve_names, result_names
from star.tracking.reader import Reader, TrackedRun
from star.words import shown

Entry = tuple[float, int, str, float]
"""Time in seconds since 1970, step, name, value. MLflow keeps an equal entry once."""
LEFT = ".own"
SYSTEM = "system"
"""First part of the names that MLflow itself uses."""
COSTS = ("seconds", "cpu_hours", "gpu_hours")


def reserved() -> tuple[str, ...]:
    """Return the first parts of metric names that users may not use: the built-in stages, and `system`."""
    return (*builtin_stages(), SYSTEM)


def write(folder: JobDir, run: str | None, entries: Iterable[Entry]) -> None:
    """Append numbers to a job's file; several processes may do so at once.

    Args:
        run: whose numbers they are; None for all runs that this job is part of.
    """
    append(
        folder,
        [
            json.dumps({"time": when, "step": step, "run": run, "metrics": {name: value}})
            for when, step, name, value in entries
        ],
    )


def append(folder: JobDir, lines: Iterable[str]) -> None:
    """Append those of `lines` that the file lacks. A last line that a kill has cut off is removed first."""
    with folder.own.open("ab+") as file:
        with suppress(OSError):  # without locks, the lines still go out in one write
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        there = whole_lines(file.read())
        file.truncate(sum(map(len, there)))
        known = set(there)
        new = [line for line in dict.fromkeys(lines) if line.encode() + b"\n" not in known]
        file.write("".join(f"{line}\n" for line in new).encode())
        file.flush()
        os.fsync(file.fileno())


def whole_lines(content: bytes) -> list[bytes]:
    """Split into lines, with their line ends; a last line that a kill has cut off is left out."""
    return [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def left_of(folder: Path) -> Path:
    """Where a job's numbers are while its folder is replaced."""
    return folder.with_name(f".{folder.name}{LEFT}")


@contextmanager
def moving(home: Home) -> Iterator[None]:
    """Let no other process move a job's numbers meanwhile, as `put_back` does."""
    home.path.mkdir(parents=True, exist_ok=True)
    with (home.path / "own.lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def put_back(home: Home) -> None:
    """Put numbers back into the folders of jobs that a killed `rerun` or `import` was about to replace."""
    if any(home.jobs.glob(f".*{LEFT}")):
        with moving(home):
            for left in home.jobs.glob(f".*{LEFT}"):
                put_back_one(left)


def put_back_one(left: Path) -> None:
    """Put the numbers of a folder that `left_of` names into the job's. Call it within `moving`."""
    folder = left.with_name(left.name.removeprefix(".").removesuffix(LEFT))
    if not folder.exists():
        left.rename(folder)
        return
    own = JobDir(left).own
    if own.exists():
        append(JobDir(folder), (line.decode().rstrip("\n") for line in whole_lines(own.read_bytes())))
    shutil.rmtree(left)


def read(folder: JobDir, run: str) -> list[Entry]:
    """Return the numbers in a job's folder that belong to this run, or to all runs of the job.

    Raises:
        DataError: a line is damaged.
    """
    return [entry for entry, _ in _read(folder, run)]


def of_jobs(home: Home, run: str, stages: Mapping[str, str]) -> dict[str, tuple[str, str] | None]:
    """Return the name of each number that was logged to a job, and so to all runs with it -> (stage, key) of that job.

    None where the run itself, or another of its jobs, has a number of that name too.
    """
    found: dict[str, set[tuple[str, str] | None]] = {}
    for stage, key in stages.items():
        for (_, _, name, _), whose in _read(home.job(stage, key), run):
            found.setdefault(name, set()).add((stage, key) if whose is None else None)
    return {name: jobs.pop() if len(jobs) == 1 else None for name, jobs in found.items() if jobs != {None}}


def _read(folder: JobDir, run: str) -> list[tuple[Entry, str | None]]:
    try:
        lines = whole_lines(folder.own.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[tuple[Entry, str | None]] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if entry["run"] in (None, run):
                for name, value in entry["metrics"].items():
                    found.append(((float(entry["time"]), int(entry["step"]), str(name), float(value)), entry["run"]))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            raise DataError(
                f"{shown(folder.own)}:{number}: is damaged; fix the line or take it out: "
                '{"time": SECONDS, "step": N, "run": KEY or null, "metrics": {NAME: VALUE}}.'
            ) from None
    return found


def of_run(home: Home, run: str, stages: Mapping[str, str]) -> list[Entry]:
    """Return all user-logged numbers of a run, from the folders of all its jobs.

    Args:
        stages: stage -> key of its job.

    Raises:
        DataError: a line is damaged.
    """
    return [entry for stage, key in stages.items() for entry in read(home.job(stage, key), run)]


def keeper(home: Home, stages: Mapping[str, str]) -> JobDir | None:
    """Return the folder for a run's numbers: its training's, else that of its last job that has one, else None."""
    known = builtin_stages()
    trained = [name for name in known if known[name].keeps == "checkpoints"][-1:]
    order = dict.fromkeys((*trained, *reversed(list(known)), *reversed(list(stages))))
    folders = [home.job(stage, stages[stage]) for stage in order if stage in stages]
    return next((folder for folder in folders if folder.path.is_dir()), None)


def is_own(home: Home, name: str, stages: Mapping[str, str]) -> bool:
    """Whether a metric of an MLflow run was logged by a user, and not by the platform, judged by its name."""
    head, _, rest = name.partition("/")
    if head not in reserved() and head not in stages:
        return True
    if head == SYSTEM or rest in COSTS or _platforms().fullmatch(name):
        return False
    return head in stages and rest not in _recorded(home.job(head, stages[head]))


def _recorded(folder: JobDir) -> set[str]:
    """Return the names that a job has recorded; another version of the code may use some unknown to this one."""
    steps = {name for _, line in read_metrics(folder.metrics) for name in line["metrics"]}
    return steps | set((folder.read_result() or {}).get("metrics", {}))


@cache
def _platforms() -> re.Pattern[str]:
    known = builtin_stages()
    also = [f"{stage.name}/{name}" for stage in known.values() for name in stage.also_recorded]
    names = [*result_names(known), *curve_names(known), *also]
    return re.compile("|".join(re.escape(name).replace(r"\{extractor\}", "[^/]+") for name in names))


def adopt(home: Home, runs: Mapping[str, Mapping[str, str]], tracked: Mapping[str, TrackedRun], reader: Reader) -> None:
    """Copy numbers that were logged to MLflow alone into the jobs' folders. A read-only home stays as it is.

    Args:
        runs: run key -> its stages, each with the key of its job.
    """
    for key, entries in unseen(home, runs, tracked, reader).items():
        folder = keeper(home, runs[key])
        if folder is not None:
            with suppress(OSError):
                write(folder, key, entries)


def unseen(
    home: Home, runs: Mapping[str, Mapping[str, str]], tracked: Mapping[str, TrackedRun], reader: Reader
) -> dict[str, list[Entry]]:
    """Return run key -> its user-logged numbers that MLflow has and the jobs' folders lack."""
    names = {
        key: [name for name in one.metrics if is_own(home, name, runs[key])]
        for key, one in tracked.items()
        if key in runs
    }
    wanted = {key: own for key, own in names.items() if own}
    found: dict[str, list[Entry]] = {}
    for name in sorted({name for own in wanted.values() for name in own}):
        with_it = {tracked[key].id: key for key, own in wanted.items() if name in own}
        for run_id, points in reader.history(list(with_it), name).items():
            # Tracker.log truncates to milliseconds: half of one more keeps the entry the same
            entries = [((when + 0.5) / 1000, step, name, value) for when, step, value in points]
            found.setdefault(with_it[run_id], []).extend(entries)
    for key, entries in found.items():
        held = {_identity(entry) for entry in of_run(home, key, runs[key])}
        found[key] = [entry for entry in entries if _identity(entry) not in held]
    return {key: entries for key, entries in found.items() if entries}


def _identity(entry: Entry) -> tuple[int, int, str, str]:
    when, step, name, value = entry
    return int(when * 1000), step, name, repr(value)  # NaN is not equal to itself


def now(step: int, values: Mapping[str, float]) -> list[Entry]:
    """Make entries of numbers at `step`, with the current time."""
    return [(round(time.time(), 3) + 0.0005, step, name, value) for name, value in values.items()]
