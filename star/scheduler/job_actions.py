"""The commands `retry`, `cancel`, `rerun` and `forget`. None of them removes anything that was computed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from star.errors import ExecutorError, SpecError
from star.ledger.states import AGAIN, CANCELLED, DONE, ENDED, LOCAL, QUEUED, RUNNING, Job
from star.ledger.store import Ledger
from star.rundir import Home, JobDir
from star.scheduler.declared import inputs_of
from star.scheduler.executor import Executor
from star.scheduler.job_graph import JobGraph
from star.scheduler.job_monitor import STOP_TIMEOUT, JobMonitor
from star.scheduler.own import left_of, moving, put_back, put_back_one
from star.scheduler.policies import CANCEL
from star.scheduler.records import record_path, written_folder
from star.spec.builtin import builtin_stages, needed


@dataclass
class Chosen:
    """The jobs that a command applies to."""

    jobs: dict[str, Job] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    """Keys of queued or running jobs that are left out, because runs that were not named need them too."""


def choose(ledger: Ledger, prefixes: Sequence[str], experiment: str | None, alone: bool = False) -> Chosen:
    """Select jobs by prefixes of keys (of jobs, or of runs: all their jobs) and by experiment.

    Args:
        experiment: its name, for all profiles, or NAME@PROFILE.
        alone: leave out a run's jobs that other runs need too.

    Raises:
        NotFoundError: there is no such key or experiment.
    """
    jobs: set[str] = set()
    runs: set[str] = set()
    for prefix in prefixes:
        kind, key = ledger.resolve(prefix)
        (runs if kind == "run" else jobs).add(key)
    if experiment is not None:
        runs |= {row.run for row in ledger.runs.named(experiment)}
    targets = {row.run: needed(tuple(row.targets)) for row in ledger.runs.experiments()}
    stages = ledger.runs.stages()

    def of(run: str) -> set[str]:
        return {key for stage, key in stages[run].items() if run not in targets or stage in targets[run]}

    wanted = {key for run in runs for key in of(run)}
    others = {key for run in targets if run not in runs for key in of(run)} if alone else set()
    shared = sorted((wanted & others) - jobs)
    active = [key for key, place in ledger.jobs.places(shared).items() if place.state in (QUEUED, RUNNING)]
    return Chosen(ledger.jobs.of(jobs | (wanted - set(shared))), sorted(active))


def retry(ledger: Ledger, jobs: Iterable[Job]) -> list[Job]:
    """Queue again the jobs that failed, were cancelled or got lost; returns them."""
    return [
        job
        for job in jobs
        if job.state in ENDED and ledger.jobs.move(job, QUEUED, AGAIN, "asked for again by `star-exp retry`")
    ]


def with_all_made_from(ledger: Ledger, keys: Iterable[str]) -> set[str]:
    """Return these keys, and those of all jobs of any run that were made from their output."""
    chosen, runs = set(keys), ledger.runs.stages()
    own = inputs_of(ledger, runs.values())
    size = -1
    while size < len(chosen):
        size = len(chosen)
        for stages in runs.values():
            for name, stage in builtin_stages().items():  # each after its inputs
                if name in stages:
                    read = own.get(stages[name])
                    found = [stages[one] for one in stage.inputs if one in stages] if read is None else read
                    chosen |= {stages[name]} if chosen & set(found) else set()
        chosen |= {key for key, inputs in own.items() if chosen & set(inputs)}
    return chosen


def rerun(home: Home, ledger: Ledger, jobs: Iterable[Job]) -> list[Job]:
    """Put aside the folders of these jobs and of all that was made from them, and queue them again.

    Returns:
        The jobs that were queued: those that were done.

    Raises:
        SpecError: one of the jobs is running.
    """
    put_back(home)
    known = ledger.jobs.of(with_all_made_from(ledger, [job.key for job in jobs]))
    for job in known.values():
        if job.state == RUNNING:
            raise SpecError(
                f"{job.stage} {job.key} is running, and reads what would be made again; `star-exp cancel` it first, or wait."
            )
    moved = []
    for job in known.values():
        if job.state != DONE:
            continue
        folder = home.job(job.stage, job.key).path
        if folder.exists():
            aside = home.aside / f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{job.attempt}"
            while aside.exists():  # put aside a moment ago
                aside = aside.with_name(f"{aside.name}b")
            aside.parent.mkdir(exist_ok=True)
            own, left = JobDir(folder).own, left_of(folder)
            with moving(home):
                if own.exists():  # logged by a user: the next attempt does not compute it
                    left.mkdir(exist_ok=True)
                    shutil.copy(own, JobDir(left).own)
                folder.rename(aside)
                if left.exists():
                    put_back_one(left)
        if ledger.jobs.move(job, QUEUED, AGAIN, "asked for again by `star-exp rerun`"):
            moved.append(job)
    ledger.runs.forget_tracked([job.key for job in moved])
    return moved


def forget(home: Home, ledger: Ledger, names: Iterable[str], over: bool) -> list[tuple[str, str]]:
    """Take experiments out of all listings. Nothing that was computed is removed.

    Args:
        names: experiments to take out: NAME, at all profiles, or NAME@PROFILE.
        over: also take out every experiment that has no queued or running jobs.

    Returns:
        (name, profile) of each one taken out.

    Raises:
        NotFoundError: there is no experiment of a given name.
        SpecError: jobs of a named experiment are queued or running.
    """
    rows = ledger.runs.experiments()
    wanted = {(row.name, row.profile) for name in names for row in ledger.runs.named(name)}
    stages, places = ledger.runs.stages(), ledger.jobs.places()
    open_jobs: dict[tuple[str, str], int] = {}
    for row in rows:
        keys = {stages[row.run][stage] for stage in needed(tuple(row.targets)) if stage in stages[row.run]}
        states = [places[key].state for key in keys if key in places]
        mine = (row.name, row.profile)
        open_jobs[mine] = open_jobs.get(mine, 0) + sum(state in (QUEUED, RUNNING) for state in states)
    chosen = [mine for mine, count in open_jobs.items() if mine in wanted or (over and not count)]
    for name, profile in chosen:
        if open_jobs[name, profile]:
            raise SpecError(
                f"{name} ({profile}): {open_jobs[name, profile]} jobs are queued or run; "
                f"`star-exp cancel --experiment {name}` first, or wait."
            )
    for name, profile in chosen:
        ledger.runs.forget_experiment(name, profile)
        record = record_path(home, name, profile)
        if record.exists():  # or `reindex` would bring it back
            home.forgotten.mkdir(parents=True, exist_ok=True)
            record.replace(home.forgotten / record.name)
        written = written_folder(home, name, profile)
        if written.exists():
            shutil.rmtree(home.forgotten / written.name, ignore_errors=True)
            written.rename(home.forgotten / written.name)
    return chosen


def cancel(
    home: Home,
    ledger: Ledger,
    jobs: Iterable[Job],
    make_executor: Callable[[str], Executor],
    say: Callable[[str], None],
) -> list[Job]:
    """Cancel queued jobs, and have running ones stopped by their scheduler, or here where that one is gone.

    Returns:
        The jobs that still run: their scheduler has not stopped them yet.
    """
    running = []
    for job in jobs:
        if job.state == QUEUED and ledger.jobs.move(job, CANCELLED, CANCEL, "cancelled by `star-exp cancel`"):
            say(f"cancelled {job.stage} {job.key}  {job.label}")
            continue
        now = ledger.jobs.of([job.key])[job.key]  # it may have started meanwhile
        if now.state == RUNNING:
            running.append(now)
    if not running:
        return []
    ledger.jobs.want([job.key for job in running], "cancel")
    say(f"asked {len(running)} running jobs to stop; training saves its state first")
    executors = {job.executor or LOCAL for job in running} - {LOCAL}
    try:
        executor = make_executor(executors.pop()) if len(executors) == 1 else make_executor(LOCAL)
    except ExecutorError as error:
        say(f"{error} The scheduler that started them stops them.")
        return running
    monitor = JobMonitor(home, ledger, executor, say, make_executor)
    graph = JobGraph.of_running(running)
    monitor.attend(graph, STOP_TIMEOUT + 10)
    executor.close()
    return [job for job in ledger.jobs.of([job.key for job in running]).values() if job.state == RUNNING]
