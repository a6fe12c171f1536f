"""Watching over jobs: sees what others did to them, adopts those whose scheduler is dead, settles what has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from star.errors import EngineError
from star.ledger.states import CANCELLED, DONE, FAILED, FINISHED, QUEUED, Job
from star.ledger.store import Ledger
from star.rundir import Home, read_json
from star.scheduler.board import Board
from star.scheduler.executor import Executor, Exit, Watched
from star.scheduler.failures import Failure, classify, failures_since_asked
from star.scheduler.leases import Lease
from star.scheduler.policies import CANCELLATION, pause

REFRESH = 1.0
"""Seconds between looks at what others did to the ledger."""
GRACE = 2.0
"""Seconds in which a started worker without a handle may still come up."""
STOP_TIMEOUT = 60.0
"""Seconds that workers get to save their state."""
log = logging.getLogger(__name__)


class Overseer:
    """Watches over the jobs of a board, under a lease of its own.

    Args:
        executor: of this scheduler's own jobs.
        engines: makes the executor of that name, for jobs that another scheduler gave to it.
        say: receives one line for each thing that happens.
    """

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        executor: Executor,
        say: Callable[[str], None],
        engines: Callable[[str], Executor] | None = None,
    ) -> None:
        self.home, self.ledger, self.executor, self.say = home, ledger, executor, say
        self.engines = engines
        self.known_engines: dict[str, Executor] = {executor.name: executor}
        self.lease = Lease(ledger, executor.name)
        self._cancelled: dict[str, float] = {}
        """Jobs that were asked to stop for good: key -> when they are killed."""
        self.next_refresh = 0.0

    def attend(self, board: Board, seconds: float) -> None:
        """Watch until nothing of the board runs any more, or `seconds` have passed; start nothing."""
        deadline = time.monotonic() + seconds
        with self.lease:
            self.refresh(board)
            while board.running and time.monotonic() < deadline:
                self.look(board, self.owned(board))
                if time.monotonic() >= self.next_refresh:
                    self.refresh(board)
                self.executor.wait(0.2)

    def owned(self, board: Board) -> list[Job]:
        """The running jobs that this scheduler watches."""
        return [job for job in board.running.values() if job.owner == self.lease.me.id]

    def refresh(self, board: Board) -> None:
        """What others did: jobs they finished, asked for again, wished to be stopped; owners that are dead."""
        self.next_refresh = time.monotonic() + REFRESH
        places = self.ledger.places(board.planned)
        changed = [
            key
            for key, place in places.items()
            if (known := board.states.get(key)) is None
            or (known.state, known.attempt, known.owner, known.wish) != tuple(place)
        ]
        for job in self.ledger.jobs(changed).values() if changed else ():
            board.see(job)
        others = [job for job in board.running.values() if job.owner != self.lease.me.id]
        for job, reason in self.lease.abandoned(others):
            adopted = self.ledger.adopt(job, self.lease.me.id, reason)
            if adopted is not None:
                board.see(adopted)
                self.say(f"attached {job.stage} {job.key}  {job.label}  ({reason})")
        for job in list(board.running.values()):
            if job.wish == "cancel" and job.owner == self.lease.me.id:
                self._cancel(job)

    def engine_of(self, job: Job) -> Executor | None:
        """Where a running job runs; None when that cannot be reached from here."""
        name = job.host.removeprefix("@") if job.host and job.host.startswith("@") else "local"
        if name not in self.known_engines and self.engines is not None:
            try:
                self.known_engines[name] = self.engines(name)
            except EngineError as error:
                log.warning("%s %s runs on %s, which cannot be reached: %s", job.stage, job.key, name, error)
        return self.known_engines.get(name)

    def watched(self, job: Job) -> Watched:
        """A running job, as its executor is asked about it."""
        name = f"star-{job.stage}-{job.key}-{job.attempt}"
        return Watched(self.home.job(job.stage, job.key), name, job.handle, job.host)

    def look(self, board: Board, jobs: list[Job]) -> None:
        """Settle those of `jobs` that have ended."""
        by_engine: dict[str, tuple[Executor, list[Job]]] = {}
        for job in jobs:
            if job.handle is None and job.started and time.time() - job.started < GRACE:
                continue  # its scheduler may be about to write the handle, its worker about to come up
            engine = self.engine_of(job)
            if engine is not None:
                by_engine.setdefault(engine.name, (engine, []))[1].append(job)
        for engine, mine in by_engine.values():
            for job, ended in zip(mine, engine.poll([self.watched(job) for job in mine]), strict=True):
                if ended is not None:
                    self._settle(board, job, ended)
                elif self._cancelled.get(job.key, float("inf")) < time.monotonic():
                    engine.stop(self.watched(job), kill=True)

    def _settle(self, board: Board, job: Job, ended: Exit) -> None:
        folder = self.home.job(job.stage, job.key)
        result = read_json(folder.result)
        wished = self._cancelled.pop(job.key, None) is not None
        if result is not None:
            if self._moved(board, job, DONE, FINISHED, "finished"):
                numbers = f"{result['seconds']:.0f} s{_numbers(result['metrics'])}"
                self.say(f"done     {job.stage} {job.key}  {job.label}  {numbers}")
            return
        failure = classify(ended, read_json(folder.failure), folder.log)
        if wished:
            if self._moved(board, job, CANCELLED, CANCELLATION, "cancelled on request"):
                self.say(f"cancelled {job.stage} {job.key}  {job.label}")
            return
        self._apply(board, job, failure)

    def _apply(self, board: Board, job: Job, failure: Failure) -> None:
        """What the failure's policy says."""
        policy, kind = failure.policy, failure.kind
        before = failures_since_asked(self.ledger.history(job.key), kind)
        reason = f"{kind}: {failure.message}"
        where = f"{job.stage} {job.key}  {job.label}"
        if policy.after == QUEUED and (policy.attempts is None or before < policy.attempts):
            wait = pause(policy, before)
            if self._moved(board, job, QUEUED, kind, reason, not_before=time.time() + wait if wait else None):
                again = f"queued again{f' in {wait:.0f} s' if wait else ''}"
                self.say(f"{kind:<8} {where}  ({failure.message}); {again}")
            return
        after = policy.after if policy.after != QUEUED else FAILED
        if policy.after == QUEUED:
            reason += f" ({before + 1} times)"
        fields: dict[str, Any] = {"error_class": failure.name, "error": failure.text}
        if self._moved(board, job, after, kind, reason, **fields):
            self.say(f"{after.upper():<8} {where}  {failure.name}: {failure.message}\n         {policy.advice}")

    def _moved(self, board: Board, job: Job, after: str, why: str, reason: str, **fields: Any) -> bool:
        """Move a job; when another was first, look what it did."""
        moved = self.ledger.move(job, after, why, reason, **fields)
        if moved:
            gone: dict[str, Any] = {"state": after, "why": why, "wish": None, "host": None, "slots": 0, "gpus": None}
            board.see(replace(job, **{**gone, "not_before": None, "finished": time.time(), **fields}))
        else:
            for now in self.ledger.jobs([job.key]).values():
                board.see(now)
        return moved

    def _cancel(self, job: Job) -> None:
        if job.key not in self._cancelled:
            self._cancelled[job.key] = time.monotonic() + STOP_TIMEOUT
            engine = self.engine_of(job)
            if engine is not None:
                engine.stop(self.watched(job))


def _numbers(metrics: dict[str, float]) -> str:
    return "".join(f"  {name.rsplit('/', 1)[-1]} {value:.4g}" for name, value in metrics.items())
