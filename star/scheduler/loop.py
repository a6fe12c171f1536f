"""The scheduler: starts jobs that are ready, watches those that run, settles those that have ended.

Besides it, only commands such as `retry` and `cancel` change jobs' states. Everything it knows is in the ledger and in
the jobs' folders, so it may be killed at any moment: the next one finds finished jobs by their result, running ones by
their handle, and the rest queued. Several schedulers may share one ledger: each running job belongs to the one that
claimed it, and another adopts the job, as it runs, only when that one is dead (`star.scheduler.leases`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from star.errors import ExecutorError
from star.ledger.states import CANCELLED, DONE, FAILED, LOST, QUEUED, RUNNING, Job
from star.ledger.store import Ledger
from star.rundir import Home
from star.scheduler.executor import Executor
from star.scheduler.job_graph import JobGraph
from star.scheduler.job_monitor import STOP_TIMEOUT, JobMonitor
from star.scheduler.own import put_back
from star.scheduler.plan import Plan, PlannedJob
from star.scheduler.snapshot import Snapshot
from star.scheduler.start import Starter
from star.words import counted

TICK = 0.25
"""Seconds between calls of `tick`."""
REFUSED = 10.0
"""Seconds until an executor that refused jobs is asked again."""


class JobSource(Protocol):
    """A source of more jobs while others run, such as a search that acts on results."""

    def __call__(self, states: Mapping[str, Job]) -> Sequence[PlannedJob]:
        """Return more jobs, each after its inputs and in the ledger already; `states` are those of all jobs so far."""

    def is_open(self) -> bool:
        """Whether this source may still deliver jobs."""


@dataclass
class Outcome:
    """How a run of the scheduler ended."""

    done: int = 0
    failed: list[Job] = field(default_factory=list)
    cancelled: list[Job] = field(default_factory=list)
    blocked: list[PlannedJob] = field(default_factory=list)
    interrupted: bool = False


class Scheduler:
    """Runs a plan that has been entered into the ledger.

    Args:
        executor: runs new jobs.
        snapshot: the code that new jobs run.
        make_executor: makes an executor by name, for jobs that another scheduler started there.
        say: receives one line for each thing that happens.
    """

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        executor: Executor,
        snapshot: Snapshot,
        say: Callable[[str], None],
        make_executor: Callable[[str], Executor] | None = None,
    ) -> None:
        self.executor, self.say = executor, say
        self.monitor = JobMonitor(home, ledger, executor, say, make_executor)
        self.starter = Starter(home, ledger, executor, snapshot, self.monitor.lease.me.id)
        self._next_tick = 0.0
        self._pause_until = 0.0
        """When an executor that refused jobs is asked again."""

    def run(self, plan: Plan, tick: Callable[[dict[str, Job]], None], source: JobSource | None = None) -> Outcome:
        """Run everything that is left of `plan`, until nothing can run any more or Ctrl-C.

        Args:
            tick: gets all jobs' states every TICK seconds.
            source: asked after each step for more jobs, which the ledger knows already.
        """
        put_back(self.starter.home)
        graph = JobGraph(plan.to_do)
        with self.monitor.lease:
            try:
                self.monitor.refresh(graph)
                elsewhere = len(graph.running) - len(self.monitor.owned(graph))
                if elsewhere:
                    self.say(f"waiting  {elsewhere} jobs run under another scheduler; their results are used here too")
                while True:
                    self._step(graph)
                    if source is not None:
                        self._extend(graph, source)
                    is_open = graph.is_open() or (source is not None and source.is_open())
                    if time.monotonic() >= self._next_tick or not is_open:
                        self._next_tick = time.monotonic() + TICK
                        tick(graph.states)
                    if not is_open:
                        return self._outcome(graph)
                    self.executor.wait(self._until_next(graph))
            except KeyboardInterrupt:
                self._interrupted(graph)
                outcome = self._outcome(graph)
                outcome.interrupted = True
                return outcome
            finally:
                for executor in self.monitor.known_executors.values():
                    executor.close()

    def _extend(self, graph: JobGraph, source: JobSource) -> None:
        jobs = source(graph.states)
        if jobs:
            graph.extend(jobs)
            self.monitor.refresh(graph)
            self._step(graph)

    def hand_over(self, plan: Plan) -> bool:
        """Submit everything that is left to an executor that chains, and return whether it took all of it."""
        graph = JobGraph(plan.to_do)
        with self.monitor.lease:
            self.monitor.refresh(graph)
            self.monitor.look(graph, self.monitor.owned(graph))  # adopted from a scheduler that has left
            started = self.starter.hand_over(graph)
        for line in self.starter.news():
            self.say(line)
        self.say(
            f"handed {counted(len(started), 'job')} to {self.executor.name}; the same command, or `star-exp status`, finds them again"
        )
        return not any(job.state == QUEUED for job in graph.states.values())

    def _step(self, graph: JobGraph) -> None:
        """Settle what has ended, start what is ready."""
        try:
            self.monitor.look(graph, self.monitor.owned(graph))
            if time.monotonic() >= self.monitor.next_refresh:
                self.monitor.refresh(graph)
            if time.monotonic() < self._pause_until:
                return
            for planned, job in self.starter.fill(graph):
                graph.see(job)
                self.say(
                    f"{'resumed' if job.attempt > 1 else 'started'}  {planned.stage} {planned.key}  {planned.label}"
                )
            for line in self.starter.news():
                self.say(line)
            if self.starter.was_late:
                self.starter.was_late = False
                self.monitor.refresh(graph)
            refused, self.starter.refused = self.starter.refused, None
            if refused is not None:
                raise refused
        except ExecutorError as error:
            self.say(f"waiting  {error}")
            self._pause_until = time.monotonic() + REFUSED

    def _until_next(self, graph: JobGraph) -> float:
        now = time.monotonic()
        moments = [self.monitor.next_refresh, self._next_tick]
        due = graph.next_due()
        if due is not None:  # what is due while the executor is not asked waits for it
            moments.append(max(now + due - time.time(), self._pause_until))
        return max(0.0, min(moments) - now)

    def _interrupted(self, graph: JobGraph) -> None:
        """Ask the workers to stop, and kill them after STOP_TIMEOUT; with an executor that has a queue, jobs go on."""
        if self.executor.queues:
            count = len(graph.running)
            self.say(
                f"left to {self.executor.name}: {counted(count, 'job')}; the same command finds them again, "
                "`star-exp cancel` stops them"
            )
            return
        self.say("stopping: running jobs keep what their stage can keep (Ctrl-C again leaves them running)")
        try:
            deadline = time.monotonic() + STOP_TIMEOUT
            for job in self._mine(graph):
                self.executor.stop(self.monitor.watched(job))
            while self._mine(graph) and time.monotonic() < deadline:
                self.monitor.look(graph, self._mine(graph))
                self.executor.wait(0.1)
            for job in self._mine(graph):
                self.executor.stop(self.monitor.watched(job), kill=True)
            self.executor.wait(1.0)
            self.monitor.look(graph, self._mine(graph))
        except KeyboardInterrupt:
            self.say("left: the running jobs go on; the same command finds them again")

    def _mine(self, graph: JobGraph) -> list[Job]:
        """Running jobs that this scheduler owns and that are on its own executor."""
        return [job for job in self.monitor.owned(graph) if self.monitor.executor_of(job) is self.executor]

    @staticmethod
    def _outcome(graph: JobGraph) -> Outcome:
        states = graph.states.values()
        return Outcome(
            done=sum(job.state == DONE for job in states),
            failed=[job for job in states if job.state == FAILED],
            cancelled=[job for job in states if job.state in (CANCELLED, LOST)],
            blocked=[job for job in graph.blocked() if graph.states[job.key].state != RUNNING],
        )
