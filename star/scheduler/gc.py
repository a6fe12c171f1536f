"""Find and remove what a home can spare: jobs of no experiment, leftovers, and, if asked, what can be made again.

Everything that a table shows stays: results, metrics, logs, the last and the best weights, tokenizers.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from star.ledger.jobs import Place
from star.ledger.states import DONE, QUEUED, RUNNING
from star.ledger.store import Ledger
from star.rundir import REMOVED, Home, JobDir, read_json
from star.scheduler.declared import inputs_of
from star.spec.builtin import builtin_stages, needed

LEFT = re.compile(r"\.gone\..+|\..+\.[0-9a-f]{32}")
"""Names of temporary files and folders of this program, which it uses for nothing else."""
YOUNG = 3600.0
"""Seconds in which a file that looks left behind may still be in use."""


@dataclass(frozen=True)
class Waste:
    """A file or folder that may be removed; its size is in bytes."""

    kind: str
    path: Path
    size: int
    why: str


def find(home: Home, ledger: Ledger, intermediates: bool = False, left_out: bool = False) -> list[Waste]:
    """Return everything that may be removed.

    Args:
        intermediates: also outputs, such as generated images and codes, of needed jobs whose readers are all done.
        left_out: also jobs of runs that an experiment once had: rows that were left out, or replaced by a fork.
    """
    users = _users(ledger, left_out)
    places = ledger.jobs.places()
    found: list[Waste] = []
    snapshots: set[str] = set()
    for name in sorted(home.job_folders()):
        stage, _, key = name.rpartition("-")
        if name.startswith(".") or not re.fullmatch(r"[0-9a-f]{16}", key):
            continue
        folder = home.job(stage, key)
        place = places.get(key)
        busy = (
            place is not None
            and (place.state == RUNNING or (place.state == QUEUED and key in users))
            or folder.locked()
        )
        if place is not None and key not in users and not busy:
            why = "its run left its experiment" if left_out else "no run that was ever asked for needs it"
            found.append(_waste("jobs of no experiment", folder.path, why))
            continue
        snapshots.add(Path(str((read_json(folder.job) or {}).get("snapshot"))).name)
        if busy or place is None:
            continue  # a job that the ledger does not know stays: run `reindex` first
        if folder.read_result() is not None:
            found += [
                _waste("left behind", path, "its job is done")
                for path in (folder.scratch, folder.checkpoints)
                if path.exists()
            ]
        read_by = users.get(key, set())
        done = all(user in places and places[user].state == DONE for user in read_by)
        known = builtin_stages().get(stage)
        # a stage that keeps checkpoints outputs weights, which are never removed while an experiment needs the job
        removable = (
            known is not None
            and known.keeps != "checkpoints"
            and folder.read_result() is not None
            and folder.has_output()
        )
        if intermediates and removable and read_by and done:
            found.append(_waste("intermediate outputs", folder.out, f"all {len(read_by)} readers are done"))
    at_work = any(one.may_be_alive() for one in ledger.schedulers.all().values())
    found += _others(home, None if at_work else snapshots, places)
    return [waste for waste in found if waste.size or waste.kind != "intermediate outputs"]


def remove(found: Iterable[Waste], ledger: Ledger) -> list[Waste]:
    """Delete what `find` found; of intermediate outputs, all but the stage's pictures and figure data.

    Folders are renamed first, all at once: deleting them may take long, and what begins meanwhile is not to be deleted.

    Returns:
        What was deleted: all but jobs that have begun since, code that was taken since, and what another has removed.
    """
    places = ledger.jobs.places()
    aside = [(waste, _set_aside(waste)) for waste in found if not _is_wanted(waste, places)]
    gone = [(waste, path) for waste, path in aside if path is not None]
    for waste, path in gone:
        _remove(waste, path)
    return [waste for waste, _ in gone]


def _is_wanted(waste: Waste, places: dict[str, Place]) -> bool:
    """Whether somebody has begun to use it since it was found."""
    if waste.kind == "code":
        return not waste.path.exists() or not _is_old(waste.path)
    if waste.kind not in ("jobs of no experiment", "left behind", "intermediate outputs"):
        return False
    folder = waste.path if waste.kind == "jobs of no experiment" else waste.path.parent
    place = places.get(folder.name.rpartition("-")[2])
    return JobDir(folder).locked() or (place is not None and place.state == RUNNING)


def _set_aside(waste: Waste) -> Path | None:
    """Where it lies now; None if it is gone, or may not be moved."""
    if waste.kind not in ("jobs of no experiment", "code", "put aside"):
        return waste.path
    aside = waste.path.with_name(f".gone.{waste.path.name}")
    try:
        waste.path.rename(aside)
        os.utime(aside)  # young, so that another `gc` does not take it for left behind
    except OSError:
        return None
    return aside


def _remove(waste: Waste, path: Path) -> None:
    if waste.kind == "intermediate outputs":
        stage = waste.path.parent.name.rpartition("-")[0]
        (waste.path / REMOVED).touch()
        for path in waste.path.iterdir():
            if path.name not in (REMOVED, *builtin_stages()[stage].files):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif path.is_dir():
        with suppress(FileNotFoundError):  # another `gc` removes it too
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _users(ledger: Ledger, left_out: bool) -> dict[str, set[str]]:
    """Return key of each needed job -> keys of the jobs that read it.

    Needed is what the experiments' rows need; without `left_out`, also what any run that was ever asked for needs.
    """
    users: dict[str, set[str]] = {}
    stages, places = ledger.runs.stages(), ledger.jobs.places()
    wanted = [(stages[row.run], needed(tuple(row.targets))) for row in ledger.runs.experiments()]
    if not left_out:
        wanted += [(keys, tuple(stage for stage in keys if keys[stage] in places)) for keys in stages.values()]
    own = inputs_of(ledger, stages.values())
    for keys, names in wanted:
        for stage in (name for name in names if name in keys):
            users.setdefault(keys[stage], set())
            for before in own.get(keys[stage], ()):
                users.setdefault(before, set()).add(keys[stage])
            known = builtin_stages().get(stage)
            for before in (name for name in known.inputs if name in keys) if known is not None else ():
                users.setdefault(keys[before], set()).add(keys[stage])
    return users


def _others(home: Home, snapshots: set[str] | None, places: dict[str, Place]) -> Iterator[Waste]:
    """What lies beside the jobs. Without `snapshots`, those that jobs ran, code stays: a scheduler has some for jobs to come."""
    for path in _inside(home.code):
        if snapshots is not None and path.name not in snapshots and not path.name.startswith(".") and _is_old(path):
            yield _waste("code", path, "no job that is kept ran it")
    for path in _inside(home.aside):
        key = path.name.split("-")[1] if "-" in path.name else ""
        if key in places and places[key].state == DONE:
            yield _waste("put aside", path, "`rerun` made it again")
    for path in _inside(home.references):
        yield _waste("references", path, "a cache; made again when it is wanted")
    for path in (
        path for folder in (home.jobs, home.code, home.scripts, home.experiments, home.path) for path in _inside(folder)
    ):
        if LEFT.fullmatch(path.name) and _is_old(path):
            yield _waste("left behind", path, "a process was killed while it wrote or removed it")


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > YOUNG


def _waste(kind: str, path: Path, why: str) -> Waste:
    return Waste(kind, path, _size(path), why)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(
        (Path(root) / name).lstat().st_size for root, _, names in os.walk(path) for name in names if name != REMOVED
    )
