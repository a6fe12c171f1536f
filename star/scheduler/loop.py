"""The scheduler: starts what is ready, watches what runs, settles what has ended. The only writer of jobs' states.

Everything it knows is in the ledger and in the jobs' folders, so it may be killed at any moment: the next one finds
finished jobs by their result, running ones by their handle, and the rest queued.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from star.ledger.store import CANCELLED, DONE, FAILED, LOST, QUEUED, RUNNING, Job, Ledger
from star.rundir import BUSY, PREEMPTED, STOPPED, Home, read_json, write_json
from star.scheduler.estimate import stage_flops
from star.scheduler.executor import Executor, Exit
from star.scheduler.plan import Plan, PlannedJob
from star.scheduler.provenance import code_version

TICK = 0.2
"""Seconds between looks at the running jobs."""
GRACE = 10.0
"""Seconds in which a started worker without a handle may still come up."""
MAX_DEATHS = 3
"""Workers of one job that may die without a word before it counts as failed."""
STOP_TIMEOUT = 60.0
"""Seconds that workers get to save their state."""
AGAIN = "asked for again"


@dataclass
class Outcome:
    """How a run of the scheduler ended."""

    done: int = 0
    reused: int = 0
    failed: list[Job] = field(default_factory=list)
    blocked: list[PlannedJob] = field(default_factory=list)
    interrupted: bool = False


class Scheduler:
    """Runs a plan on one executor.

    Args:
        slots: CPU slots of this machine; a job takes one for each thread of each process.
        say: receives one line for each thing that happens.
    """

    def __init__(self, home: Home, ledger: Ledger, executor: Executor, slots: int, say: Callable[[str], None]) -> None:
        self.home, self.ledger, self.executor, self.slots, self.say = home, ledger, executor, slots, say
        self.code = code_version()
        self.me = {"pid": os.getpid(), "started": psutil.Process().create_time()}

    def run(self, plan: Plan, tick: Callable[[dict[str, Job]], None]) -> Outcome:
        """Everything that is left of `plan`; `tick` sees all its jobs several times a second."""
        self._enter(plan)
        jobs = {job.key: job for job in plan.to_do}
        try:
            while True:
                states = self._advance(jobs)
                tick(states)
                if not self._open(jobs, states):
                    return self._outcome(plan, states)
                time.sleep(TICK)
        except KeyboardInterrupt:
            self._stop_all(jobs)
            outcome = self._outcome(plan, self.ledger.jobs(jobs))
            outcome.interrupted = True
            return outcome

    def _enter(self, plan: Plan) -> None:
        rows = [(run.label, run.seed, run.key) for run in plan.runs]
        for run in plan.runs:
            self.ledger.add_run(run.key, run.name, run.spec, run.stages)
        self.ledger.set_experiment(plan.experiment.name, plan.experiment.profile, plan.experiment.targets, rows)
        for planned in plan.jobs.values():
            if planned.action != "not needed":
                self.ledger.add_job(planned.key, planned.stage, planned.label, stage_flops(planned.stage, planned.spec))
        wanted = {planned.key for planned in plan.to_do}
        for key, job in self.ledger.jobs(plan.jobs).items():
            has_result = self.home.job(job.stage, key).result.exists()
            if has_result and job.state != DONE:  # its worker outlived the scheduler that started it
                self.ledger.move(job, DONE, "result found in its folder")
            elif key in wanted and job.state in (FAILED, LOST, CANCELLED):
                self.ledger.move(job, QUEUED, AGAIN)
            elif key in wanted and job.state == DONE and not has_result:
                self.ledger.move(job, QUEUED, "its result has gone")

    def _advance(self, jobs: dict[str, PlannedJob]) -> dict[str, Job]:
        """Settle what has ended, start what is ready; returns the states after it."""
        for job in self.ledger.jobs(jobs).values():
            if job.state == RUNNING:
                self._look(job)
        states = self.ledger.jobs(jobs)
        used = sum(jobs[key].slots for key, job in states.items() if job.state == RUNNING)
        for key, job in states.items():
            ready = job.state == QUEUED and all(
                self._done(before, jobs, states) for before in jobs[key].inputs.values()
            )
            if ready and (used == 0 or used + jobs[key].slots <= self.slots):
                used += jobs[key].slots
                self._start(jobs[key], job)
        return self.ledger.jobs(jobs)

    @staticmethod
    def _done(key: str, jobs: dict[str, PlannedJob], states: dict[str, Job]) -> bool:
        return key not in jobs or states[key].state == DONE

    def _open(self, jobs: dict[str, PlannedJob], states: dict[str, Job]) -> bool:
        """Whether anything runs, or can still run."""
        dead: set[str] = set()
        for key, planned in jobs.items():  # each after its inputs
            if states[key].state in (FAILED, CANCELLED, LOST) or dead & set(planned.inputs.values()):
                dead.add(key)
        return any(job.state != DONE and key not in dead for key, job in states.items())

    def _start(self, planned: PlannedJob, job: Job) -> None:
        if not self.ledger.move(job, RUNNING, f"started on {self.executor.name}"):
            return  # another scheduler was first
        folder = self.home.job(planned.stage, planned.key)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.failure.unlink(missing_ok=True)  # so that one that is there is this attempt's
        write_json(
            folder.job,
            {
                "stage": planned.stage,
                "key": planned.key,
                "label": planned.label,
                "spec": planned.spec.model_dump(mode="json"),
                "threads": planned.spec.resources.threads_of(planned.stage),
                "processes": planned.spec.resources.processes_of(planned.stage),
                "inputs": {name: str(self.home.job(name, key).path) for name, key in planned.inputs.items()},
                "data_home": str(self.home.data),
                "code": self.code,
            },
        )
        handle = {**self.executor.submit(folder), "scheduler": self.me}
        self.ledger.set_handle(job.key, job.attempt + 1, handle)
        self.say(
            f"{'resumed' if planned.action == 'resume' or job.attempt else 'started'}  {planned.stage} {planned.key}  {planned.label}"
        )

    def _look(self, job: Job) -> None:
        if job.handle is None and job.started and time.time() - job.started < GRACE:
            return  # its scheduler may be about to write the handle
        ended = self.executor.poll(self.home.job(job.stage, job.key), job.handle)
        if ended is not None:
            self._settle(job, ended)

    def _settle(self, job: Job, ended: Exit) -> None:
        folder = self.home.job(job.stage, job.key)
        result, failure = read_json(folder.result), read_json(folder.failure)
        if result is not None:
            if self.ledger.move(job, DONE, "finished"):
                self.say(
                    f"done     {job.stage} {job.key}  {job.label}  {result['seconds']:.0f} s{_numbers(result['metrics'])}"
                )
        elif ended.code == BUSY:
            self.ledger.set_handle(
                job.key, job.attempt, None
            )  # an older worker still holds the lock: wait for that one
        elif ended.code == PREEMPTED or (failure is not None and failure["class"] == STOPPED):
            self.ledger.move(job, QUEUED, "stopped on request, state saved")
        elif failure is not None:
            self._fail(job, failure["class"], failure["message"])
        else:
            self._died(job, ended)

    def _died(self, job: Job, ended: Exit) -> None:
        how = (
            f"signal {-ended.code}"
            if ended.code is not None and ended.code < 0
            else f"exit code {ended.code}"
            if ended.code is not None
            else "while no scheduler watched"
        )
        deaths = 1
        for entry in reversed(self.ledger.history(job.key)):
            if entry.reason == AGAIN:
                break
            deaths += entry.reason.startswith("worker died")
        if deaths < MAX_DEATHS:
            if self.ledger.move(job, QUEUED, f"worker died ({how})"):
                self.say(f"died     {job.stage} {job.key}  {job.label}  ({how}); queued again")
        else:
            self._fail(
                job,
                "WorkerDied",
                f"{deaths} workers died, the last by {how}; see {self.home.job(job.stage, job.key).log}",
            )

    def _fail(self, job: Job, kind: str, message: str) -> None:
        if self.ledger.move(job, FAILED, f"{kind}: {message}", error_class=kind, error=message):
            self.say(f"FAILED   {job.stage} {job.key}  {job.label}  {kind}: {message}")

    def _stop_all(self, jobs: dict[str, PlannedJob]) -> None:
        """Ask all workers that are ours, or nobody's any more, to save their state; wait for them."""
        self.say("stopping: running jobs save their state (Ctrl-C again leaves them running)")
        try:
            deadline = time.time() + STOP_TIMEOUT
            ours = [job for job in self.ledger.jobs(jobs).values() if job.state == RUNNING and self._is_ours(job)]
            for job in ours:
                assert job.handle is not None
                self.executor.stop(self.home.job(job.stage, job.key), job.handle)
            while ours and time.time() < deadline:
                for job in ours:
                    self._look(job)
                ours = [job for job in self.ledger.jobs([job.key for job in ours]).values() if job.state == RUNNING]
                time.sleep(TICK / 2)
            for job in ours:
                self.executor.stop(self.home.job(job.stage, job.key), job.handle or {}, kill=True)
        except KeyboardInterrupt:
            self.say("left: the running jobs go on; the same command finds them again")

    def _is_ours(self, job: Job) -> bool:
        owner = (job.handle or {}).get("scheduler")
        if owner is None:
            return False
        try:
            return bool(owner == self.me or psutil.Process(owner["pid"]).create_time() != owner["started"])
        except psutil.NoSuchProcess:
            return True

    def _outcome(self, plan: Plan, states: dict[str, Job]) -> Outcome:
        outcome = Outcome(reused=sum(job.action == "reuse" for job in plan.jobs.values()))
        for planned in plan.to_do:
            state = states[planned.key].state
            if state == DONE:
                outcome.done += 1
            elif state == FAILED:
                outcome.failed.append(states[planned.key])
            else:
                outcome.blocked.append(planned)
        return outcome


def _numbers(metrics: dict[str, float]) -> str:
    return "".join(f"  {name.rsplit('/', 1)[-1]} {value:.4g}" for name, value in metrics.items())
