"""`star-exp search`: puts a study, the scheduler that it feeds, and the transfer of metrics together."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import click

from star.cli.notify import Notifier, receiver
from star.cli.run import RunOptions, ready_to_write
from star.cli.store import connect
from star.cli.view import View
from star.errors import LedgerError, SpecError
from star.ledger.states import Job
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home, read_json
from star.scheduler.executor import Executor
from star.scheduler.executors import make_executor
from star.scheduler.loop import Outcome, Scheduler
from star.scheduler.metrics_sync import MetricsSync, Shipment
from star.scheduler.plan import Plan
from star.scheduler.recorded import names_of
from star.scheduler.records import record_path
from star.scheduler.reindex import read_shipment
from star.scheduler.snapshot import take
from star.search.job_source import Trials
from star.search.segments import TrialSegments
from star.search.study import Study, alone
from star.search.warm import promote, warm_start
from star.spec.points import EARLY, Search

SHOWN = 16
"""Number of runs in the live view, the newest ones."""
IN_A_QUEUE = 8
"""Default number of trials at a time on an executor that has its own queue."""


@dataclass(frozen=True)
class SearchOptions(RunOptions):
    """How to search, as the command line says."""

    trials: int | None = None
    parallel: int | None = None
    warm: bool = False
    promote: tuple[int, ...] = ()


def run_search(search: Search, options: SearchOptions) -> int:
    """Continue a search up to its number of trials, then write its report; returns the exit code."""
    home, target = Home(options.home), receiver()
    ready_to_write(home, options.out / search.name / search.profile)
    with alone(search, home), answering():
        ledger = open_ledger(home)
        refuse_name(search, home, ledger)
        executor = make_executor(options.executor, home, options.slots)
        study = Study(search, home)
        promote(study, options.promote)
        outcome, broken, behind = _searched(search, study, home, ledger, executor, options, target)
    if outcome.interrupted:
        click.echo("interrupted; the same command goes on where this one stopped")
        return 130
    if behind:
        click.echo(
            "error: MLflow could not be told everything, so no report was written; the same command carries the rest.",
            err=True,
        )
        return 1
    from star.cli.report import write_studies

    write_studies([search], options.home, options.out)
    return 0 if study.complete() and not broken else 1


@contextmanager
def answering() -> Iterator[None]:
    """Context in which an error of Optuna's database becomes one sentence.

    Raises:
        LedgerError: the database was away, locked or full for too long.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise LedgerError(
            f"the studies' database does not answer: {str(error).splitlines()[0]}; nothing is lost: the same command goes on."
        ) from None


def refuse_name(search: Search, home: Home, ledger: Ledger) -> None:
    """Check that no experiment has the study's name, at any profile: each would remove the other's rows.

    Raises:
        SpecError: an experiment has it.
    """
    if search.name.endswith(EARLY):
        raise SpecError(
            f"{search.file}: search: {search.name!r} ends in {EARLY}, as what searches keep of their comparisons; give another with --name."
        )
    names = (search.name, f"{search.name}{EARLY}")
    known = names_of(home)
    rows = [row for name in names for row in ledger.runs.experiments(name) if not known.get((name, row.profile), False)]
    if any(not row.row.startswith("trial ") for row in rows) or any(
        name in names and not study for (name, _), study in known.items()
    ):
        taken = next((row.name for row in rows if not row.row.startswith("trial ")), search.name)
        why = "" if taken == search.name else f", and a search of that name keeps its comparisons as {taken!r}"
        raise SpecError(
            f"{search.file}: search: {taken!r} is the name of an experiment that ran here{why}; give another with --name."
        )


def _searched(
    search: Search,
    study: Study,
    home: Home,
    ledger: Ledger,
    executor: Executor,
    options: SearchOptions,
    target: str | None,
) -> tuple[Outcome, bool, bool]:
    # SIGTERM acts as Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    empty = Plan(search.experiment([], [], search.targets), [], {}, [])
    syncs = _Syncs(search, home, ledger)
    about = {"experiment": search.name, "profile": search.profile, "home": str(home.path)}
    notifier = Notifier(target, about, lambda line: click.echo(line, err=True))
    total = options.trials or (math.inf if options.budget is not None else search.spec.trials)
    with View(empty, home, options.plain) as view:

        def deliver(plan: Plan) -> None:
            syncs.deliver(plan)
            empty.runs[:] = [*empty.runs, *plan.runs][-SHOWN:]
            empty.jobs.update(plan.jobs)

        segments = TrialSegments(home, ledger, search.name, deliver)
        if options.warm:
            warm_start(study, segments, view.say)
        parallel = options.parallel or _at_once(executor)
        shown = f"{total:g}" if math.isfinite(total) else f"as many as {options.budget:g} hours allow"
        trials = Trials(study, segments, view.say, parallel, total, options.budget)
        view.say(f"{search.name}: {study.counted()} trials of {shown} begun; {parallel} at a time on {executor.name}")
        snapshot = take(home)
        executors = lambda name: make_executor(name, home)  # noqa: E731
        scheduler = Scheduler(home, ledger, executor, snapshot, view.say, executors)
        first = trials.resume()

        def tick(states: dict[str, Job]) -> None:
            view.update(states)
            notifier.see(states)

        outcome = scheduler.run(replace(empty, jobs={job.key: job for job in first}), tick, trials)
    ended = "interrupted" if outcome.interrupted else f"{study.counted()} trials"
    notifier.send("search_ended", f"{search.name}: ended: {ended}", trials=study.counted())
    notifier.close()
    return outcome, trials.broken, syncs.finish()


def _at_once(executor: Executor) -> int:
    limits = executor.limits()
    if limits is None:
        return IN_A_QUEUE
    slots, gpus = limits
    return max(1, len(gpus) or slots)


class _Syncs:
    """Carries metrics to MLflow: a `MetricsSync` for whole runs, one for runs that end early, started on demand."""

    def __init__(self, search: Search, home: Home, ledger: Ledger) -> None:
        self.search, self.home, self.ledger = search, home, ledger
        self.known: dict[str, MetricsSync] = {}
        for name in (search.name, f"{search.name}{EARLY}"):  # what a killed process has left undelivered
            record = read_json(record_path(home, name, search.profile))
            if record is not None:
                self._carry(read_shipment(record))

    def deliver(self, plan: Plan) -> None:
        """Carry what the runs of a plan record to MLflow, from now on."""
        self._carry(replace(Shipment.of(plan), study=self.search.name))

    def _carry(self, shipment: Shipment) -> None:
        metrics_sync = self.known.get(shipment.experiment)
        if metrics_sync is None:
            connecting: Callable[[], object] = lambda: connect(self.home)  # noqa: E731
            metrics_sync = self.known[shipment.experiment] = MetricsSync(self.home, self.ledger, shipment, connecting)  # type: ignore[arg-type]
            metrics_sync.start()
        else:
            metrics_sync.add(shipment)

    def finish(self) -> bool:
        """Deliver what is left; returns whether something could not be."""
        return any([metrics_sync.finish() is not None for metrics_sync in self.known.values()])
