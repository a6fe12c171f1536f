"""Watches jobs: reads what others did to them, adopts those whose scheduler is dead, settles those that have ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from star.errors import ExecutorError
from star.ledger.states import CANCELLED, DONE, FAILED, FINISHED, LOCAL, QUEUED, RUNNING, Job
from star.ledger.store import Ledger
from star.rundir import Home, read_json
from star.scheduler.declared import stage_of
from star.scheduler.executor import Executor, Exit, Watched
from star.scheduler.failures import Failure, classify, failures_since_asked
from star.scheduler.job_graph import JobGraph
from star.scheduler.leases import Lease
from star.scheduler.policies import CANCEL, advice, attempts, pause

REFRESH = 1.0
"""Seconds between readings of what others changed in the ledger."""
STRAYS = 10.0
"""Seconds between searches for jobs that a dead scheduler of another experiment left on this machine."""
GRACE = 2.0
"""Seconds after its adoption in which a worker without a handle may still start up."""
STOP_TIMEOUT = 60.0
"""Seconds that workers get to stop before they are killed."""
log = logging.getLogger(__name__)


class JobMonitor:
    """Watches jobs, under a lease of its own (`star.scheduler.leases`).

    Args:
        executor: runs this scheduler's own jobs.
        make_executor: makes an executor by name, for jobs that another scheduler started there.
        say: receives one line for each thing that happens.
    """

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        executor: Executor,
        say: Callable[[str], None],
        make_executor: Callable[[str], Executor] | None = None,
    ) -> None:
        self.home, self.ledger, self.executor, self.say = home, ledger, executor, say
        self.make_executor = make_executor
        self.known_executors: dict[str, Executor] = {executor.name: executor}
        self.lease = Lease(ledger, executor.name)
        self._cancelled: dict[tuple[str, int], float] = {}
        """Attempts that are being cancelled: (key, attempt number) -> when they are killed."""
        self._adopted: dict[tuple[str, int], float] = {}
        """Attempts adopted without a handle: (key, attempt number) -> when that was."""
        self._unreachable: dict[str, float] = {}
        """Executors that could not be reached: name -> when they are tried again."""
        self._strays = JobGraph(())
        """Adopted jobs of other experiments on this machine: unwatched, they would hold room that is needed."""
        self.next_refresh = self._next_strays = 0.0

    def attend(self, graph: JobGraph, seconds: float) -> None:
        """Watch the jobs until none runs any more, or `seconds` have passed; starts nothing."""
        deadline = time.monotonic() + seconds
        with self.lease:
            self.refresh(graph)
            while graph.running and time.monotonic() < deadline:
                self.look(graph, self.owned(graph))
                if time.monotonic() >= self.next_refresh:
                    self.refresh(graph)
                self.executor.wait(0.2)

    def owned(self, graph: JobGraph) -> list[Job]:
        """The running jobs that this scheduler watches."""
        return [job for job in graph.running.values() if job.owner == self.lease.me.id]

    def refresh(self, graph: JobGraph) -> None:
        """Read what others changed in the ledger, adopt jobs whose owner is dead, stop jobs that shall be cancelled."""
        self.next_refresh = time.monotonic() + REFRESH
        self._bring_up(graph, graph.planned)
        self._bring_up(self._strays, list(self._strays.running))
        self._adopt(graph, [job for job in graph.running.values() if job.owner != self.lease.me.id])
        if time.monotonic() >= self._next_strays:
            self._next_strays = time.monotonic() + STRAYS
            here = [job for job in self.ledger.jobs.of_state(RUNNING) if job.host == self.lease.me.host]
            self._adopt(
                self._strays, [job for job in here if job.key not in graph.planned and job.owner != self.lease.me.id]
            )
        self.look(self._strays, self.owned(self._strays))
        for job in [*graph.running.values(), *self._strays.running.values()]:
            if job.wish == "cancel" and job.owner == self.lease.me.id:
                self._cancel(job)

    def _bring_up(self, graph: JobGraph, keys: Collection[str]) -> None:
        """Show a graph what the ledger knows otherwise of these jobs."""
        places = self.ledger.jobs.places(keys) if keys else {}
        changed = [
            key
            for key, place in places.items()
            if (known := graph.states.get(key)) is None
            or (known.state, known.attempt, known.owner, known.wish) != tuple(place)
        ]
        for job in self.ledger.jobs.of(changed).values() if changed else ():
            graph.see(job)

    def _adopt(self, graph: JobGraph, jobs: list[Job]) -> None:
        """Take over those of `jobs` whose scheduler is dead, as they run.

        The ledger changes the owner only if state, attempt and owner are still as read, so only one of several
        schedulers gets the job. The attempt number stays, so its worker goes on and may write the result. A job whose
        executor cannot be reached from here is left to a scheduler that can reach it, unless its result is there
        already. `star.scheduler.leases` explains when a scheduler counts as dead, and why a wrong verdict does no harm.
        """
        for job, reason in self.lease.abandoned(jobs):
            folder = self.home.job(job.stage, job.key)
            if self.executor_of(job) is None and folder.read_result() is None:
                continue  # left to a scheduler that can reach its executor
            adopted = self.ledger.jobs.adopt(job, self.lease.me.id, reason)
            if adopted is None:
                continue
            graph.add(adopted)
            if adopted.handle is None:
                self._adopted[adopted.key, adopted.attempt] = time.monotonic()
            self.say(f"attached {job.stage} {job.key}  {job.label}  ({reason})")
            if self.executor_of(job) is None:
                self._settle(graph, adopted, Exit(None))

    def executor_of(self, job: Job) -> Executor | None:
        """The executor that a running job is on; None when it cannot be reached from here."""
        name = job.executor or LOCAL
        tried = self._unreachable.get(name, 0.0) > time.monotonic()
        if name not in self.known_executors and self.make_executor is not None and not tried:
            try:
                self.known_executors[name] = self.make_executor(name)
            except ExecutorError as error:
                self._unreachable[name] = time.monotonic() + 60
                self.say(f"waiting  {job.stage} {job.key} runs on {name}, which cannot be reached from here: {error}")
        return self.known_executors.get(name)

    def watched(self, job: Job) -> Watched:
        """A running job in the form that its executor's `poll` and `stop` take."""
        name = f"star-{job.stage}-{job.key}-{job.attempt}"
        return Watched(self.home.job(job.stage, job.key), name, job.handle, job.host)

    def look(self, graph: JobGraph, jobs: list[Job]) -> None:
        """Settle those of `jobs` that have ended, and kill cancelled ones that did not stop in time."""
        by_executor: dict[str, tuple[Executor, list[Job]]] = {}
        for job in jobs:
            if job.handle is None and time.monotonic() - self._adopted.get((job.key, job.attempt), 0.0) < GRACE:
                continue  # its scheduler died just now: the worker may be about to start
            executor = self.executor_of(job)
            if executor is not None:
                by_executor.setdefault(executor.name, (executor, []))[1].append(job)
        for executor, mine in by_executor.values():
            for job, ended in zip(mine, executor.poll([self.watched(job) for job in mine]), strict=True):
                if ended is not None:
                    self._settle(graph, job, ended)
                elif self._cancelled.get((job.key, job.attempt), float("inf")) < time.monotonic():
                    executor.stop(self.watched(job), kill=True)

    def _settle(self, graph: JobGraph, job: Job, ended: Exit) -> None:
        folder = self.home.job(job.stage, job.key)
        result = folder.read_result() if folder.is_complete() else None
        wished = self._cancelled.pop((job.key, job.attempt), None) is not None
        if result is not None:
            if self._moved(graph, job, DONE, FINISHED, "finished"):
                numbers = f"{result['seconds']:.0f} s{_numbers(result['metrics'])}"
                self.say(f"done     {job.stage} {job.key}  {job.label}  {numbers}")
            return
        failure = classify(ended, read_json(folder.failure), folder.log)
        place = self.ledger.jobs.places([job.key])[job.key]
        if wished or (place.wish == "cancel" and place.attempt == job.attempt):
            if self._moved(graph, job, CANCELLED, CANCEL, "cancelled on request"):
                self.say(f"cancelled {job.stage} {job.key}  {job.label}")
            return
        self._apply(graph, job, failure)

    def _apply(self, graph: JobGraph, job: Job, failure: Failure) -> None:
        """Do what the failure's policy says: queue the job again, after a pause if there is one, or end it."""
        policy, kind = failure.policy, failure.kind
        before = failures_since_asked(self.ledger.jobs.history(job.key), kind)
        reason = f"{kind}: {failure.message}"
        where = f"{job.stage} {job.key}  {job.label}"
        most = 0 if failure.is_final else attempts(kind, stage_of(job.stage, self.home.job(job.stage, job.key)))
        if policy.after == QUEUED and (most is None or before < most):
            wait = pause(policy, before)
            if self._moved(graph, job, QUEUED, kind, reason, not_before=time.time() + wait if wait else None):
                again = f"queued again{f' in {wait:.0f} s' if wait else ''}"
                self.say(f"{kind:<8} {where}  ({failure.message}); {again}")
            return
        after = policy.after if policy.after != QUEUED else FAILED
        if policy.after == QUEUED:
            reason += f" ({before + 1} times)"
        fields: dict[str, Any] = {"error_class": failure.name, "error": failure.text}
        if self._moved(graph, job, after, kind, reason, **fields):
            message = failure.message.removeprefix(f"{failure.name}: ")
            self.say(
                f"{after.upper():<8} {where}  {failure.name}: {message}\n         {advice(kind, job.stage, job.key)}"
            )

    def _moved(self, graph: JobGraph, job: Job, after: str, why: str, reason: str, **fields: Any) -> bool:
        """Change a job's state, and return whether that worked; if another process was first, read what it did."""
        moved = self.ledger.jobs.move(job, after, why, reason, **fields)
        for now in [moved] if moved else self.ledger.jobs.of([job.key]).values():
            graph.see(now)
        return moved is not None

    def _cancel(self, job: Job) -> None:
        if (job.key, job.attempt) not in self._cancelled:
            self._cancelled[job.key, job.attempt] = time.monotonic() + STOP_TIMEOUT
            executor = self.executor_of(job)
            if executor is not None:
                executor.stop(self.watched(job))


def _numbers(metrics: dict[str, float]) -> str:
    return "".join(f"  {name.rsplit('/', 1)[-1]} {value:.4g}" for name, value in metrics.items())
