"""Experiments, runs and jobs of a ledger in memory. One reader keeps them up to date for all viewers.

A page about 10,000 runs is made from memory in milliseconds; of the ledger only what its history says has changed is
read.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from star.errors import LedgerError, NotFoundError
from star.ledger.states import CANCELLED, DONE, ENDED, FAILED, LOST, QUEUED, RUNNING, Job, SchedulerInfo, row_state
from star.ledger.store import Ledger, read_ledger
from star.rundir import Home, JobDir
from star.spec.builtin import builtin_stages, needed

OVERLAP = 500
"""Transitions that are read again each time: PostgreSQL may commit a lower id after a higher one."""
WHOLE_EVERY, PROGRESS_EVERY, SPEEDS_EVERY = 60.0, 1.0, 20.0
"""Seconds between full reads of the experiments (a row may be replaced by a known run, which changes no count), between
reads of running jobs' progress, and between reads of the stages' speeds.
"""
LATE = 3.0
"""Seconds for which the newest transitions are read again: PostgreSQL may commit a lower id after a higher one."""
SKEW = 600.0
"""Seconds by which another machine's clock may differ from this one's."""
Name = tuple[str, str]
"""An experiment's name and profile."""


@dataclass(slots=True)
class Row:
    """One row of an experiment with one seed."""

    group: Group
    label: str
    seed: int
    run: str
    targets: tuple[str, ...]
    jobs: dict[str, str]
    """Stage -> job key, for the stages that the row needs."""
    state: str = "waiting"
    changed: float = 0.0
    """Time (seconds since 1970) when a job of the row last began or ended, or else was created."""


@dataclass(slots=True, eq=False)
class Group:
    """An experiment at a profile."""

    name: str
    profile: str
    rows: list[Row] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    """State -> number of rows."""
    dirty: bool = True
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> Name:
        return self.name, self.profile


class Model:
    """The data of all pages. Hold `lock` to read more than one attribute."""

    def __init__(self, home: Home, ledger: Ledger | None = None) -> None:
        self.home, self._ledger = home, ledger
        self.lock = threading.RLock()
        self.version = 0
        """Grows whenever something that a page may show has changed."""
        self.jobs: dict[str, Job] = {}
        self.stages: dict[str, dict[str, str]] = {}
        self.groups: dict[Name, Group] = {}
        self.schedulers: dict[str, SchedulerInfo] = {}
        self.progress: dict[str, dict[str, Any]] = {}
        """Key of a running job -> its worker's progress: done, total, rate."""
        self.rows_of_run: dict[str, list[Row]] = {}
        self._rows_of_job: dict[str, list[Row]] = {}
        self._running: set[str] = set()
        self._schedulers_seen: dict[str, tuple[bool, float]] = {}
        self._newest, self._size, self._read_at = 0, (0, 0), 0.0
        self._seen: dict[str, int] = {}
        self._speeds: dict[str, float] = {}
        self._next = {"whole": 0.0, "progress": 0.0, "speeds": 0.0, "again": 0.0}

    @property
    def ledger(self) -> Ledger:
        """The home's ledger.

        Raises:
            NotFoundError: nothing has run in the home yet.
        """
        if self._ledger is None:
            raise NotFoundError("Nothing has run in this home yet.")
        return self._ledger

    def refresh(self) -> bool:
        """Bring everything up to date; returns whether anything changed.

        Raises:
            LedgerError: the ledger does not answer.
        """
        if self._ledger is None:  # something may have run meanwhile
            self._ledger = read_ledger(self.home)
            if self._ledger is None:
                return False
        before, now = self.version, time.monotonic()
        size, newest = self.ledger.runs.size(), self.ledger.jobs.newest()
        if newest != self._newest:
            self._next["again"] = now + LATE
        if newest != self._newest or now < self._next["again"]:
            # read the ledger before taking the lock, so that pages need not wait
            changed = self.ledger.jobs.of(self.ledger.jobs.changed_since(self._newest - OVERLAP if self.jobs else 0))
            with self.lock:
                self._take(changed)
            self._newest = newest
        if size != self._size or now > self._next["whole"]:
            self._read_experiments(size)
        if now > self._next["whole"]:
            self._compare_all()
            self._next["whole"] = now + WHOLE_EVERY
        if now > self._next["progress"]:
            self._look_at_running(self.ledger.schedulers.all())
            self._next["progress"] = now + PROGRESS_EVERY
        return self.version != before

    def running(self) -> list[Job]:
        """Running jobs, the oldest start first."""
        return sorted((self.jobs[key] for key in self._running), key=lambda job: job.started or 0.0)

    def at_work(self) -> list[SchedulerInfo]:
        """Schedulers that are alive, or may be alive on another machine."""
        return [one for one in self.schedulers.values() if one.may_be_alive()]

    def users(self, key: str) -> list[Row]:
        """Rows that need the job with this key."""
        return self._rows_of_job.get(key, [])

    def summary(self, group: Group) -> dict[str, Any]:
        """Counts of jobs, seconds spent and left (each job once), and estimated seconds until all are done."""
        if group.dirty:
            group.summary = self._summed(group)
            group.dirty = False
        speeds, at_once = self._speeds_now(), max(1, len(self._running))
        rest: float | None = 0.0
        for stage, flops in group.summary["flops_left"].items():
            is_unknown = stage not in speeds if flops else stage not in builtin_stages()  # commands tell no FLOPs
            rest = None if rest is None or is_unknown else rest + flops / speeds.get(stage, 1.0)
        is_moving = bool(group.summary["running"]) or (bool(group.summary["flops_left"]) and bool(self.at_work()))
        eta = rest / at_once if rest and is_moving else None
        spent = group.summary["spent"] + sum(max(0.0, time.time() - one) for one in group.summary["began"])
        return {**group.summary, "spent": spent, "rest": rest, "eta": eta, "is_moving": is_moving}

    def _summed(self, group: Group) -> dict[str, Any]:
        jobs = {key: self.jobs[key] for row in group.rows for key in row.jobs.values() if key in self.jobs}
        counts = Counter(job.state for job in jobs.values())
        # jobs that wait for a failed one run only after it is retried
        ahead = {key for row in group.rows if row.state not in ENDED for key in row.jobs.values()}
        left: Counter[str] = Counter()
        spent, began = 0.0, list[float]()
        for key, job in jobs.items():
            if job.started and job.finished and job.state != QUEUED:
                spent += job.finished - job.started
            elif job.started and job.state == RUNNING:
                began.append(job.started)
            if job.state == RUNNING or (job.state == QUEUED and key in ahead):
                told = self.progress.get(key) or {}
                left[job.stage] += job.flops * (1 - min(1.0, told.get("done", 0) / (told.get("total") or 1)))
        changed = max((row.changed for row in group.rows), default=0.0)
        return {
            **{state: counts[state] for state in (DONE, RUNNING, QUEUED, FAILED, CANCELLED, LOST)},
            "jobs": len(jobs),
            "rows": len(group.rows),
            "states": group.states,
            "spent": spent,
            "began": began,
            "flops_left": dict(left),
            "changed": changed,
        }

    def _speeds_now(self) -> dict[str, float]:
        if time.monotonic() > self._next["speeds"]:
            with suppress(LedgerError):  # the last known speeds are good enough for an estimate
                self._speeds = self.ledger.jobs.speeds()
            self._next["speeds"] = time.monotonic() + SPEEDS_EVERY
        return self._speeds

    # keeping up

    def _take(self, changed: dict[str, Job]) -> None:
        news = {key: job for key, job in changed.items() if not self._knows(job)}
        if not news:
            return
        self.jobs.update(news)
        for key, job in news.items():
            if job.state == RUNNING:
                self._running.add(key)
            else:
                self._running.discard(key)
                self.progress.pop(key, None)
                self._seen.pop(key, None)
        touched = {id(row): row for key in news for row in self._rows_of_job.get(key, ())}
        self._settle(touched.values())
        self.version += 1

    def _knows(self, job: Job) -> bool:
        """Whether a job is known as it is; a result seen in its folder is newer than a ledger without it."""
        known = self.jobs.get(job.key)
        ahead = known is not None and known.state == DONE and job.state == RUNNING and known.attempt == job.attempt
        return ahead or known == job

    def _settle(self, rows: Iterable[Row]) -> None:
        for row in rows:
            mine = {stage: self.jobs[key] for stage, key in row.jobs.items() if key in self.jobs}
            targets = [mine[stage].state if stage in mine else None for stage in row.targets if stage in row.jobs]
            state = row_state(targets, {job.state for job in mine.values()})
            row.group.states[row.state] -= 1
            row.group.states[state] += 1
            row.state, row.group.dirty = state, True
            row.changed = max((job.finished or job.started or job.created for job in mine.values()), default=0.0)

    def _read_experiments(self, size: tuple[int, int]) -> None:
        began = time.time()
        listed = self.ledger.runs.experiments()
        stages = self.ledger.runs.stages(self._read_at - SKEW if self.stages else None)
        if not {row.run for row in listed} <= self.stages.keys() | stages.keys():  # a machine's clock is far behind
            stages = self.ledger.runs.stages()
        self._size, self._read_at = size, began
        with self.lock:
            self.stages |= stages
            self._take_experiments(listed)

    def _take_experiments(self, listed: Sequence[Any]) -> None:
        now = [(row.name, row.profile, row.row, row.seed, row.run, tuple(row.targets)) for row in listed]
        if now == [(*r.group.address, r.label, r.seed, r.run, r.targets) for g in self.groups.values() for r in g.rows]:
            return
        self.groups, self._rows_of_job, self.rows_of_run = {}, {}, {}
        for one in listed:
            group = self.groups.setdefault((one.name, one.profile), Group(one.name, one.profile))
            known = self.stages.get(one.run, {})
            keys = {stage: known[stage] for stage in needed(tuple(one.targets)) if stage in known}
            row = Row(group, one.row, one.seed, one.run, tuple(one.targets), keys)
            group.rows.append(row)
            group.states[row.state] += 1
            self.rows_of_run.setdefault(one.run, []).append(row)
            for key in keys.values():
                self._rows_of_job.setdefault(key, []).append(row)
        self._settle([row for group in self.groups.values() for row in group.rows])
        self.version += 1

    def _compare_all(self) -> None:
        """Compare every job's state with the ledger's, and take over whatever was missed."""
        places = self.ledger.jobs.places()
        known = {key: self.jobs.get(key) for key in places}
        missed = [
            key
            for key, place in places.items()
            if (job := known[key]) is None or (job.state, job.attempt) != (place.state, place.attempt)
        ]
        changed = self.ledger.jobs.of(missed) if missed else {}
        with self.lock:
            self._take(changed)

    def _look_at_running(self, schedulers: dict[str, SchedulerInfo]) -> None:
        told: dict[str, dict[str, Any]] = {}
        ended: dict[str, Job] = {}
        for job in self.running():
            folder = f"{self.home.jobs}/{job.stage}-{job.key}"
            written = _written(f"{folder}/progress.json")
            if written != self._seen.get(job.key, 0):  # no file: nothing new
                self._seen[job.key] = written
                told[job.key] = _numbers_of(JobDir(Path(folder)).read_progress())
            # done, although its scheduler is gone or has not noticed yet; a damaged result is none
            if os.path.exists(f"{folder}/result.json") and JobDir(Path(folder)).read_result() is not None:
                ended[job.key] = replace(job, state=DONE, finished=job.finished or time.time())
        with self.lock:
            seen = {key: (one.may_be_alive(), one.seen // 30) for key, one in schedulers.items()}
            self.version += bool(told) or seen != self._schedulers_seen
            self.schedulers, self._schedulers_seen = schedulers, seen
            self.progress |= told
            for row in (row for key in told for row in self._rows_of_job.get(key, ())):
                row.group.dirty = True
            self._take(ended)


def _numbers_of(told: Any) -> dict[str, Any]:
    """A worker's progress; what it says of done, total and rate is a number, whoever wrote the file."""
    found = dict(told) if isinstance(told, dict) else {}
    for name in ("done", "total", "rate"):
        if not isinstance(found.get(name, 0), int | float):
            del found[name]
    return found


def _written(path: str) -> int:
    """When a file was last written, in ns; 0 if it does not exist. A thousand calls take a millisecond or two."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
