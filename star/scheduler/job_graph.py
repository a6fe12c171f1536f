"""What is left of a plan, in memory: which jobs wait for which, which may start, which run."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator

from star.ledger.states import DONE, QUEUED, RUNNING, Job
from star.scheduler.plan import PlannedJob


class JobGraph:
    """The jobs of a plan that are to do, and their states as last seen.

    Every step takes time in proportion to what changes, not to what there is: plans have tens of thousands of jobs.
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
        """Ready but for a pause: key -> when it ends."""
        self.extend(jobs)

    def extend(self, jobs: Iterable[PlannedJob]) -> None:
        """More jobs to do, each after its inputs; those that are here already stay as they are. They start once they are `see`n."""
        for job in jobs:
            if job.key in self.planned:
                continue
            self.planned[job.key] = job
            self._order[job.key] = len(self._order)
            inputs = {before for before in job.inputs.values() if before in self.planned}
            self._waits_for[job.key] = {before for before in inputs if not self._is_done(before)}
            for before in inputs:  # also of those that are done: somebody may ask for one again
                self._users.setdefault(before, []).append(job.key)

    def _is_done(self, key: str) -> bool:
        return key in self.states and self.states[key].state == DONE

    @classmethod
    def of_running(cls, jobs: Iterable[Job]) -> JobGraph:
        """Jobs to watch, which wait for nothing and are not to be started."""
        graph = cls(())
        for job in jobs:
            graph.add(job)
        return graph

    def add(self, job: Job) -> None:
        """Take note of a job, also of one that is not in the plan: such a one waits for nothing, and is not started."""
        if job.key not in self.planned:
            self.planned[job.key] = None  # type: ignore[assignment]
            self._waits_for[job.key] = {""}
            self._order[job.key] = len(self._order)
        self.see(job)

    def see(self, job: Job) -> None:
        """Take note of a job as it is now."""
        before = self.states.get(job.key)
        self.states[job.key] = job
        if job.state == RUNNING:
            self.running[job.key] = job
        else:
            self.running.pop(job.key, None)
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
        if job.not_before is not None and job.not_before > time.time():
            self._later[key] = job.not_before
        else:
            self._listed.add(key)
            heapq.heappush(self._ready, (self._order[key], key))

    def ready(self) -> Iterator[PlannedJob]:
        """Jobs that may start, in the plan's order. One that is not `see`n as started must be given back."""
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
        """Jobs for which there was no room."""
        for job in jobs:
            self._offer(job.key)

    def is_open(self) -> bool:
        """Whether anything runs or can still run: what waits for a failed job cannot."""
        return bool(self.running or self._ready or self._later)

    def next_due(self) -> float | None:
        """When the first pause ends."""
        return min(self._later.values(), default=None)

    def blocked(self) -> list[PlannedJob]:
        """Jobs that are neither done nor ended: they wait for one that has failed or was cancelled."""
        return [job for key, job in self.planned.items() if self.states[key].state in (QUEUED, RUNNING)]
