"""The scheduler: starts what is ready, watches what runs, settles what has ended. With the verbs, the only writer of jobs' states.

Everything it knows is in the ledger and in the jobs' folders, so it may be killed at any moment: the next one finds
finished jobs by their result, running ones by their handle, and the rest queued. Several may work at one ledger: each job
belongs to the scheduler that claimed it, and only when that one is dead does another adopt it, running as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from star.errors import EngineError
from star.ledger.states import CANCELLED, DONE, FAILED, FINISHED, QUEUED, RUNNING, Job
from star.ledger.store import Ledger
from star.rundir import Home, read_json
from star.scheduler.board import Board
from star.scheduler.executor import Executor, Exit, Watched
from star.scheduler.failures import Failure, classify, failures_since_asked
from star.scheduler.leases import Lease
from star.scheduler.plan import Plan, PlannedJob
from star.scheduler.policies import CANCELLATION, pause
from star.scheduler.snapshot import Snapshot
from star.scheduler.start import Starter

REFRESH = 1.0
"""Seconds between looks at what others did to the ledger."""
TICK = 0.25
"""Seconds between calls of `tick`."""
GRACE = 2.0
"""Seconds in which a started worker without a handle may still come up."""
STOP_TIMEOUT = 60.0
"""Seconds that workers get to save their state."""
log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a run of the scheduler ended."""

    done: int = 0
    failed: list[Job] = field(default_factory=list)
    blocked: list[PlannedJob] = field(default_factory=list)
    interrupted: bool = False


class Scheduler:
    """Runs a plan that has been entered into the ledger.

    Args:
        executor: where new jobs go.
        engines: makes the executor of that name, for jobs that another scheduler gave to it.
        say: receives one line for each thing that happens.
    """

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        executor: Executor,
        snapshot: Snapshot,
        say: Callable[[str], None],
        engines: Callable[[str], Executor] | None = None,
    ) -> None:
        self.home, self.ledger, self.executor, self.say = home, ledger, executor, say
        self.engines = engines
        self._known_engines: dict[str, Executor] = {executor.name: executor}
        self.lease = Lease(ledger, executor.name)
        self.starter = Starter(home, ledger, executor, snapshot, self.lease.me.id)
        self._cancelled: dict[str, float] = {}
        """Jobs that were asked to stop for good: key -> when they are killed."""
        self._next_refresh = self._next_tick = 0.0
        self._pause_until = 0.0
        """The engine refused: it is asked again then."""

    def run(self, plan: Plan, tick: Callable[[dict[str, Job]], None]) -> Outcome:
        """Everything that is left of `plan`; `tick` sees all its jobs a few times a second."""
        board = Board(plan.to_do)
        with self.lease:
            self._refresh(board)
            try:
                while True:
                    self._step(board)
                    if time.monotonic() >= self._next_tick or not board.is_open():
                        self._next_tick = time.monotonic() + TICK
                        tick(board.states)
                    if not board.is_open():
                        return self._outcome(board)
                    self.executor.wait(self._until_next(board))
            except KeyboardInterrupt:
                self._interrupted(board)
                outcome = self._outcome(board)
                outcome.interrupted = True
                return outcome
            finally:
                for engine in self._known_engines.values():
                    engine.close()

    def _step(self, board: Board) -> None:
        """Settle what has ended, start what is ready."""
        self._look(board, [job for job in board.running.values() if job.owner == self.lease.me.id])
        if time.monotonic() >= self._next_refresh:
            self._refresh(board)
        if time.monotonic() < self._pause_until:
            return
        try:
            for planned, job in self.starter.fill(board):
                board.see(job)
                self.say(
                    f"{'resumed' if job.attempt > 1 else 'started'}  {planned.stage} {planned.key}  {planned.label}"
                )
        except EngineError as error:
            self.say(f"waiting  {error}")
            self._pause_until = time.monotonic() + 10
            self._refresh(board)

    def _until_next(self, board: Board) -> float:
        moments = [self._next_refresh, self._next_tick]
        due = board.next_due()
        seconds = min(moments) - time.monotonic()
        return max(0.0, seconds if due is None else min(seconds, due - time.time()))

    def _refresh(self, board: Board) -> None:
        """What others did: jobs they finished, asked for again, wished to be stopped; owners that are dead."""
        self._next_refresh = time.monotonic() + REFRESH
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

    def _engine_of(self, job: Job) -> Executor | None:
        name = job.host.removeprefix("@") if job.host and job.host.startswith("@") else "local"
        if name not in self._known_engines and self.engines is not None:
            try:
                self._known_engines[name] = self.engines(name)
            except EngineError as error:
                log.warning("%s %s runs on %s, which cannot be reached: %s", job.stage, job.key, name, error)
        return self._known_engines.get(name)

    def _watched(self, job: Job) -> Watched:
        name = f"star-{job.stage}-{job.key}-{job.attempt}"
        return Watched(self.home.job(job.stage, job.key), name, job.handle, job.host)

    def _look(self, board: Board, jobs: list[Job]) -> None:
        by_engine: dict[str, tuple[Executor, list[Job]]] = {}
        for job in jobs:
            if job.handle is None and job.started and time.time() - job.started < GRACE:
                continue  # its scheduler may be about to write the handle, its worker about to come up
            engine = self._engine_of(job)
            if engine is not None:
                by_engine.setdefault(engine.name, (engine, []))[1].append(job)
        for engine, mine in by_engine.values():
            for job, ended in zip(mine, engine.poll([self._watched(job) for job in mine]), strict=True):
                if ended is not None:
                    self._settle(board, job, ended)
                elif self._cancelled.get(job.key, float("inf")) < time.monotonic():
                    engine.stop(self._watched(job), kill=True)

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
            engine = self._engine_of(job)
            if engine is not None:
                engine.stop(self._watched(job))

    def _interrupted(self, board: Board) -> None:
        """Ask the workers of this machine to save their state, and wait for them; what an engine runs goes on."""
        if self.executor.queues:
            count = len(board.running)
            self.say(
                f"left: {count} jobs go on in {self.executor.name}; the same command finds them again, "
                "`star-exp cancel` stops them"
            )
            return
        self.say("stopping: running jobs save their state (Ctrl-C again leaves them running)")
        try:
            deadline = time.monotonic() + STOP_TIMEOUT
            for job in self._mine(board):
                self.executor.stop(self._watched(job))
            while self._mine(board) and time.monotonic() < deadline:
                self._look(board, self._mine(board))
                self.executor.wait(0.1)
            for job in self._mine(board):
                self.executor.stop(self._watched(job), kill=True)
            self.executor.wait(1.0)
            self._look(board, self._mine(board))
        except KeyboardInterrupt:
            self.say("left: the running jobs go on; the same command finds them again")

    def _mine(self, board: Board) -> list[Job]:
        """What this scheduler watches and its executor runs."""
        return [
            job
            for job in board.running.values()
            if job.owner == self.lease.me.id and self._engine_of(job) is self.executor
        ]

    @staticmethod
    def _outcome(board: Board) -> Outcome:
        states = board.states.values()
        return Outcome(
            done=sum(job.state == DONE for job in states),
            failed=[job for job in states if job.state == FAILED],
            blocked=[job for job in board.blocked() if board.states[job.key].state != RUNNING],
        )


def _numbers(metrics: dict[str, float]) -> str:
    return "".join(f"  {name.rsplit('/', 1)[-1]} {value:.4g}" for name, value in metrics.items())
