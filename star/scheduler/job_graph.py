"""The remaining jobs of a plan, in memory: which wait for which, which may start, which run."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator

from star.ledger.states import DONE, QUEUED, RUNNING, Job
from star.scheduler.plan import PlannedJob
from star.scheduler.policies import PAUSE_LIMIT


class JobGraph:
    """The jobs of a plan that are to do, and their states as last seen.

    Each operation takes time in proportion to what changes, not to the number of jobs: plans have tens of thousands.
    """

    def __init__(self, jobs: Iterable[PlannedJob]) -> None:
        self.planned: dict[str, PlannedJob] = {}
        self.states: dict[str, Job] = {}
        self.running: dict[str, Job] = {}
        self._order: dict[str, int] = {}
        self._waits_for: dict[str, set[str]] = {}
        self._users: dict[str, list[str]] = {}
        self._ready: list[tuple[int, str]] = []
        self._listed: set[str] = set()
        self._later: dict[str, float] = {}
        """Jobs that are ready except for a pause: key -> end of the pause, in seconds since 1970."""
        self.extend(jobs)

    def extend(self, jobs: Iterable[PlannedJob]) -> None:
        """Add jobs to do, each after its inputs; known ones are skipped. They may start once `see` got their state."""
        for job in jobs:
            if job.key in self.planned:
                continue
            self.planned[job.key] = job
            self._order[job.key] = len(self._order)
            inputs = {before for before in job.inputs.values() if before in self.planned}
            self._waits_for[job.key] = {before for before in inputs if not self._is_done(before)}
            for before in inputs:  # also if it is done: somebody may ask for it again
                self._users.setdefault(before, []).append(job.key)

    def _is_done(self, key: str) -> bool:
        return key in self.states and self.states[key].state == DONE

    @classmethod
    def of_running(cls, jobs: Iterable[Job]) -> JobGraph:
        """Make a graph of running jobs that are only watched, and never started."""
        graph = cls(())
        for job in jobs:
            graph.add(job)
        return graph

    def add(self, job: Job) -> None:
        """Record the current state of any job; one that is outside of the plan is watched but never started."""
        if job.key not in self.planned:
            self.planned[job.key] = None  # type: ignore[assignment]
            self._waits_for[job.key] = {""}
            self._order[job.key] = len(self._order)
        self.see(job)

    def see(self, job: Job) -> None:
        """Record the current state of a job of the plan, and update which jobs may start."""
        before = self.states.get(job.key)
        self.states[job.key] = job
        if job.state == RUNNING:
            self.running[job.key] = job
        else:
            self.running.pop(job.key, None)
        if job.state != QUEUED:
            self._later.pop(job.key, None)
        if job.state == DONE and (before is None or before.state != DONE):
            for user in self._users.get(job.key, ()):
                self._waits_for[user].discard(job.key)
                self._offer(user)
        elif before is not None and before.state == DONE and job.state != DONE:  # somebody asked for it again
            for user in self._users.get(job.key, ()):
                self._waits_for[user].add(job.key)
        self._offer(job.key)

    def _offer(self, key: str) -> None:
        job = self.states.get(key)
        if job is None or job.state != QUEUED or self._waits_for[key] or key in self._listed:
            return
        # no pause is longer: what seems so was set by a machine with another clock
        if job.not_before is not None and 0 < job.not_before - time.time() <= PAUSE_LIMIT:
            self._later[key] = job.not_before
        else:
            self._listed.add(key)
            heapq.heappush(self._ready, (self._order[key], key))

    def ready(self) -> Iterator[PlannedJob]:
        """Yield the jobs that may start, in the plan's order. Pass those that were not started to `give_back`."""
        now = time.time()
        for key in [key for key, due in self._later.items() if due <= now]:
            del self._later[key]
            self._offer(key)
        while self._ready:
            _, key = heapq.heappop(self._ready)
            self._listed.discard(key)
            if self.states[key].state == QUEUED and not self._waits_for[key]:
                yield self.planned[key]

    def give_back(self, jobs: Iterable[PlannedJob]) -> None:
        """Let `ready` yield these jobs again: there was no room for them."""
        for job in jobs:
            self._offer(job.key)

    def is_open(self) -> bool:
        """Whether any job runs or can still start; a job that waits for a failed one cannot."""
        return bool(self.running or self._ready or self._later)

    def next_due(self) -> float | None:
        """When the first pause ends, in seconds since 1970; None without one."""
        return min(self._later.values(), default=None)

    def blocked(self) -> list[PlannedJob]:
        """Jobs that are queued or running; when nothing can start, queued ones wait for a failed or cancelled job."""
        return [job for key, job in self.planned.items() if self.states[key].state in (QUEUED, RUNNING)]
