"""Start attempts: find room, claim the job in the ledger, write its folder, submit its worker."""

from __future__ import annotations

import errno
import shlex
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from star.errors import ExecutorError
from star.ledger.states import DONE, FAILED, LOCAL, QUEUED, RUNNING, Allocation, Job
from star.ledger.store import Ledger
from star.rundir import Home, write_json
from star.scheduler.executor import Executor, Handle, Limits, Start
from star.scheduler.failures import failures_since_asked
from star.scheduler.job_graph import JobGraph
from star.scheduler.plan import PlannedJob
from star.scheduler.policies import DISK, INFRASTRUCTURE, MEMORY, POLICIES, REFUSED, USER, advice, attempts, pause
from star.scheduler.scripts import copy_of
from star.scheduler.snapshot import Snapshot
from star.spec.resources import Resources
from star.spec.scripts import scripts_of, source_of
from star.words import counted


def threads_on(slots: int, resources: Resources, stage: str) -> int:
    """Threads of each process of a job that gets so many slots; a machine with fewer than it asks for divides what it has."""
    threads = resources.threads_of(stage)
    return max(1, min(threads, slots // resources.processes_of(stage))) if slots else threads


def divided(jobs: Iterable[PlannedJob], executor: Executor) -> list[str]:
    """Sentences on stages that get fewer threads than they ask for: sums in another order round otherwise."""
    slots, _ = executor.limits() or (0, {})
    found: dict[str, str] = {}
    for job in jobs:
        asked = job.spec.resources.threads_of(job.stage)
        given = threads_on(slots, job.spec.resources, job.stage)
        if given < asked:
            found[job.stage] = (
                f"note     {job.stage} asks for {asked} threads and gets {given}: its numbers may differ in rounding from those of {asked}"
            )
    return list(found.values())


class Starter:
    """Starts the jobs that are ready and fit.

    Args:
        me: this scheduler's id in the ledger.
    """

    def __init__(self, home: Home, ledger: Ledger, executor: Executor, snapshot: Snapshot, me: str) -> None:
        self.home, self.ledger, self.executor, self.snapshot, self.me = home, ledger, executor, snapshot, me
        self.was_late = False
        """Whether another scheduler has claimed a job that this one wanted: the ledger has to be read again."""
        self.refused: ExecutorError | None = None
        """What the executor, or the machine, said instead of a place for a job: it is asked again after a pause."""
        self._news: list[str] = []

    def news(self) -> list[str]:
        """Return what went wrong since the last call, a line each."""
        news, self._news = self._news, []
        return news

    def fill(self, graph: JobGraph) -> list[tuple[PlannedJob, Job]]:
        """Start every ready job that there is room for; returns each with its new state."""
        limits = self.executor.limits()
        held: Limits = self._held() if limits is not None else (0, {})
        starts: list[tuple[PlannedJob, Job, Start]] = []
        left: list[PlannedJob] = []
        too_wide: set[tuple[Any, ...]] = set()
        try:
            for planned in graph.ready():
                shape = _shape(planned)
                claim = None if shape in too_wide else self._place(planned, held)
                job = self._claim(planned, graph.states[planned.key], claim, limits) if claim else None
                if claim is not None and job is None and self._is_taken(graph, planned):
                    self.was_late = True
                    continue
                if claim is None or job is None:
                    if shape not in too_wide and self._will_never_fit(graph, planned):
                        continue
                    too_wide.add(shape)
                    left.append(planned)
                    if limits is not None and held[0] >= limits[0]:
                        break  # no slot is free at all
                    continue
                graph.see(job)
                start = self._prepared(graph, planned, job, claim)
                if start is not None:
                    held = _added(held, claim)
                    starts.append((planned, job, start))
        except ExecutorError as error:  # the machine's GPUs could not be asked just now
            self.refused = error
            left.append(planned)
        graph.give_back(left)
        return self._submit(graph, starts) if starts else []

    def _will_never_fit(self, graph: JobGraph, planned: PlannedJob) -> bool:
        """Fail a job if there will never be room for it; returns whether that is so."""
        reason = self.executor.never(planned.stage, planned.spec.resources)
        if reason is None:
            return False
        job = graph.states[planned.key]
        if self.ledger.jobs.move(job, FAILED, USER, reason, error_class="ResourceError", error=reason):
            self._news.append(f"FAILED   {planned.stage} {planned.key}  {planned.label}  {reason}")
        graph.see(self.ledger.jobs.of([job.key])[job.key])
        return True

    def _prepared(
        self, graph: JobGraph, planned: PlannedJob, job: Job, claim: Allocation, after: tuple[Handle, ...] = ()
    ) -> Start | None:
        """Write the attempt's folder. A full disk, or a folder that may not be written, ends only the attempt: None."""
        try:
            return self._prepare(planned, job, claim, after)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._undo(graph, planned, job, DISK if full else INFRASTRUCTURE, str(error))
            return None

    def _undo(self, graph: JobGraph, planned: PlannedJob, job: Job, kind: str, message: str) -> None:
        """End an attempt whose process was not started, as the policy for this `kind` of failure says."""
        policy = POLICIES[kind]
        before = failures_since_asked(self.ledger.jobs.history(job.key), kind)
        most = attempts(kind, planned.spec.pipeline.get(planned.stage))
        if policy.after == QUEUED and (most is None or before < most):
            wait = pause(policy, before)
            self.ledger.jobs.move(job, QUEUED, kind, f"not started: {message}", not_before=time.time() + wait)
            self._news.append(f"waiting  {planned.stage} {planned.key}  ({message}); again in {wait:.0f} s")
        else:
            self.ledger.jobs.move(job, FAILED, kind, f"not started: {message}", error_class=kind, error=message)
            self._news.append(
                f"FAILED   {planned.stage} {planned.key}  {planned.label}  {message}\n         {advice(kind, job.stage, job.key)}"
            )
        graph.see(self.ledger.jobs.of([job.key])[job.key])

    def _is_taken(self, graph: JobGraph, planned: PlannedJob) -> bool:
        """Whether another scheduler was first (else the machine is full); the graph gets the job's current state."""
        before, now = graph.states[planned.key], self.ledger.jobs.of([planned.key])[planned.key]
        graph.see(now)
        return (now.state, now.attempt) != (before.state, before.attempt)

    def hand_over(self, graph: JobGraph) -> list[tuple[PlannedJob, Job]]:
        """Submit everything at once to an executor that chains: each job waits in its queue for those that it needs.

        A job that waits for one that runs elsewhere stays queued here.
        """
        started: list[tuple[PlannedJob, Job]] = []
        left = [planned for planned in graph.planned.values() if graph.states[planned.key].state == QUEUED]
        waiting = {planned.key for planned in left}
        while left:
            wave = [planned for planned in left if not waiting & set(planned.inputs.values())]
            if not wave:
                self._news.append(
                    f"left     {counted(len(left), 'job')} queued: what they need runs elsewhere; the same command hands them over"
                )
                break
            starts = []
            for planned in wave:
                waiting.discard(planned.key)
                start = self._chained(graph, planned)
                if start is None:
                    waiting.add(planned.key)  # and all that need it
                else:
                    starts.append((planned, graph.states[planned.key], start))
            for planned, job in self._submit(graph, starts) if starts else ():
                graph.see(job)
                started.append((planned, job))
            submitted = {planned.key for planned, _ in started}
            waiting |= {planned.key for planned, _, _ in starts} - submitted
            taken = {planned.key for planned in wave}
            left = [planned for planned in left if planned.key not in taken]
        return started

    def _held(self) -> Limits:
        """What running jobs of all schedulers hold of this machine, or of an executor with machines of its own."""
        return self.ledger.jobs.held(self.executor.name, socket.gethostname() if self.executor.name == LOCAL else None)

    def _place(self, planned: PlannedJob, held: Limits) -> Allocation | None:
        """What a job would hold, and where; None when there is no room now."""
        found = self.executor.place(planned.stage, planned.spec.resources, held)
        return None if found is None else replace(found, executor=self.executor.name)

    def _chained(self, graph: JobGraph, planned: PlannedJob) -> Start | None:
        """Claim and prepare an attempt that waits for its inputs in the executor's queue.

        None when an input runs elsewhere, another scheduler was first, or the folder cannot be written.
        """
        claim = self._place(planned, (0, {}))
        inputs = [graph.states[key] for key in planned.inputs.values() if key in graph.states]
        unfinished = [before for before in inputs if before.state != DONE]
        if claim is None or any(not _same_place(before, claim) or before.handle is None for before in unfinished):
            return None
        job = self._claim(planned, graph.states[planned.key], claim, None)
        if job is None:
            return None  # another scheduler was first
        graph.see(job)
        after = tuple(before.handle for before in unfinished if before.handle is not None)
        return self._prepared(graph, planned, job, claim, after)

    def _claim(self, planned: PlannedJob, job: Job, claim: Allocation, limits: Limits | None) -> Job | None:
        reason = f"{'resumed' if job.attempt else 'started'} on {claim.location}, code {self.snapshot.version}"
        return self.ledger.jobs.claim(job, self.me, reason, claim, limits)

    def _prepare(self, planned: PlannedJob, job: Job, claim: Allocation, after: tuple[Handle, ...] = ()) -> Start:
        """Write the attempt's job.json. Its attempt number makes workers of older attempts exit without a result."""
        folder = self.home.job(planned.stage, planned.key)
        folder.path.mkdir(parents=True, exist_ok=True)
        for earlier in (folder.failure, folder.stop):  # so that what is found later is this attempt's
            earlier.unlink(missing_ok=True)
        if not folder.is_complete():
            folder.result.unlink(missing_ok=True)  # its output is gone, and is wanted again
        # passes are halved once for each time that memory ran out; the key stays the same: see `policies`
        short_of_memory = failures_since_asked(self.ledger.jobs.history(job.key), MEMORY) if job.attempt > 1 else 0
        spec = planned.spec.with_smaller_passes(short_of_memory)
        resources = spec.resources
        threads = threads_on(claim.slots, resources, planned.stage)
        description = {
            "stage": planned.stage,
            "key": planned.key,
            "attempt": job.attempt,
            "label": planned.label,
            "spec": spec.model_dump(mode="json"),
            "threads": threads,
            "processes": resources.processes_of(planned.stage),
            "script": self._script(planned),
            "plugins": {
                one.digest: str(self.home.scripts / one.digest) for one in planned.spec.plugins_of(planned.stage)
            },
            "nodes": resources.nodes_of(planned.stage),
            "inputs": {name: str(self.home.job(name, key).path) for name, key in planned.inputs.items()},
            "resume_from": self._resume_from(planned),
            "data_home": str(self.home.data),
            "content": planned.run.content(planned.stage),
            "flops": planned.flops,
            "code": self.snapshot.version,
            "snapshot": str(self.snapshot.path),
            "command": _command(),
        }
        write_json(folder.job, description, durable=False)
        with folder.log.open("a") as log:
            log.write(f"== attempt {job.attempt} · {claim.location} · {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        name = f"star-{planned.stage}-{planned.key}-{job.attempt}"
        title = (planned.run.experiment, planned.stage, planned.run.name if len(planned.runs) == 1 else "")
        return Start(folder, planned.stage, name, self.snapshot.path, resources, claim, after, job.attempt, title)

    def _script(self, planned: PlannedJob) -> str | None:
        """Path of the copied files of a user-defined stage that is a command; None for any other stage."""
        source = (
            planned.run.sources.get(source_of(planned.stage)) if planned.stage in scripts_of(planned.spec) else None
        )
        return str(copy_of(self.home, source)) if source else None

    def _resume_from(self, planned: PlannedJob) -> list[str]:
        folders = [self.home.job(planned.stage, key) for key in planned.resume_from]
        return [str(folder.out) for folder in folders if folder.is_complete()]

    def _submit(self, graph: JobGraph, starts: list[tuple[PlannedJob, Job, Start]]) -> list[tuple[PlannedJob, Job]]:
        starts = self._still_mine(starts)
        handles = self.executor.submit([start for _, _, start in starts]) if starts else []
        started = []
        for (planned, job, _), handle in zip(starts, handles, strict=True):
            if isinstance(handle, ExecutorError):
                self._undo(graph, planned, job, REFUSED, str(handle))
            else:
                self.ledger.jobs.set_handle(job, handle)
                started.append((planned, replace(job, handle=handle)))
        return started

    def _still_mine(self, starts: list[tuple[PlannedJob, Job, Start]]) -> list[tuple[PlannedJob, Job, Start]]:
        """Leave out attempts that another scheduler took over since their claim: this one may have been suspended."""
        now = self.ledger.jobs.places([job.key for _, job, _ in starts])
        mine = [start for start in starts if now[start[1].key][:3] == (RUNNING, start[1].attempt, self.me)]
        if len(mine) < len(starts):
            self.was_late = True
        return mine


def _command() -> str:
    """Return the command line of this process; where its program lies concerns nobody who reads a result."""
    program = Path(sys.argv[0]).name
    return shlex.join(["star-exp" if program == "__main__.py" else program, *sys.argv[1:]])


def _same_place(job: Job, claim: Allocation) -> bool:
    """Whether a job is on the executor and machine of a claim."""
    return (job.executor, job.host) == (claim.executor, claim.host)


def _shape(planned: PlannedJob) -> tuple[Any, ...]:
    """Return what a job needs of a place: where one job has no room, no other of the same shape has."""
    resources, stage = planned.spec.resources, planned.stage
    wide = (resources.slots_of(stage), resources.processes_of(stage))
    return (*wide, resources.uses_gpu(stage), resources.gpu_memory_gb_of(stage))


def _added(held: Limits, claim: Allocation) -> Limits:
    slots, gpus = held
    more: Iterable[tuple[str, int]] = (claim.gpus or {}).items()
    return slots + claim.slots, {**gpus, **{gpu: gpus.get(gpu, 0) + size for gpu, size in more}}
