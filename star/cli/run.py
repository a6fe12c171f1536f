"""`star-exp run`: puts scheduler, metrics, view and report together."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from star.cli.failures import sentence
from star.cli.notify import Notifier, receiver, verdicts
from star.cli.places import writable
from star.cli.store import check_tracking, connect, reader_of
from star.cli.view import View
from star.errors import DataError, SpecError, StarError
from star.ledger.states import Job
from star.ledger.store import Ledger, open_ledger
from star.process import is_alive
from star.rundir import Home
from star.scheduler.estimate import History
from star.scheduler.executor import Executor
from star.scheduler.executors import make_executor
from star.scheduler.loop import Outcome, Scheduler
from star.scheduler.metrics_sync import MetricsSync, Shipment
from star.scheduler.plan import Plan, make_plan
from star.scheduler.recorded import names_of
from star.scheduler.registration import compare, refuse_fork, register
from star.scheduler.snapshot import take
from star.scheduler.start import divided
from star.scheduler.time_limits import beyond_limits
from star.spec.experiment import Experiment
from star.spec.points import EARLY
from star.words import counted


@dataclass(frozen=True)
class RunOptions:
    """How to run, as the command line says."""

    home: Path
    out: Path
    executor: str = "local"
    slots: int | None = None
    plain: bool = True
    fork: bool = False
    detach: bool = False
    budget: float | None = None
    rows: tuple[str, ...] = ()
    """Patterns of the rows to compute; all by default."""


def run_experiment(experiment: Experiment, options: RunOptions) -> int:
    """Compute what is left of an experiment, then write its report; returns the exit code."""
    home = Home(options.home)
    folder = options.out / experiment.name / experiment.profile
    ready_to_write(home, folder)
    refuse_name(experiment, home)
    ledger = open_ledger(home)
    plan = make_plan(experiment.only(options.rows), home, ledger)
    whole = make_plan(experiment, home, ledger) if options.rows else plan
    if plan.missing and plan.to_do:
        raise DataError(" ".join(plan.missing))
    keep_budget(plan, options.budget)
    warn_of_limits(plan, ledger, options.executor)
    gc.enable()  # `read_experiment` has switched it off; what follows runs for long
    if not options.fork:
        refuse_fork(whole, compare(whole, ledger))
    target = receiver()
    if options.detach and options.executor != "slurm":
        return _detach(home, ledger, experiment)
    executor = make_executor(options.executor, home, options.slots)
    if options.detach and executor.chains:
        register(plan, home, ledger, click.echo, options.fork, whole)
        scheduler = Scheduler(home, ledger, executor, take(home), click.echo, lambda name: make_executor(name, home))
        return 0 if scheduler.hand_over(plan) else 1
    # SIGTERM acts as Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shipment = Shipment.of(plan)
    metrics_sync = MetricsSync(home, ledger, shipment, lambda: connect(home))
    about = {"experiment": experiment.name, "profile": experiment.profile, "home": str(home.path)}
    notifier = Notifier(target, about, lambda line: click.echo(line, err=True))
    with View(plan, home, options.plain) as view:
        rest = len(plan.jobs) - len(plan.to_do)
        view.say(
            f"{experiment.name}: {counted(len(plan.runs), 'run')}; {counted(len(plan.jobs), 'job')}, {len(plan.to_do)} to do, "
            f"{rest} done or not needed; {_where(executor)}"
        )
        for line in (*(f"found    {note}" for note in plan.found), *divided(plan.to_do, executor)):
            view.say(line)
        snapshot = take(home)
        register(plan, home, ledger, view.say, options.fork, whole)
        if plan.to_do or not _is_delivered(shipment, home, ledger):
            metrics_sync.start()  # imports MLflow, which takes longer than all else when nothing is left to do
        executors = lambda name: make_executor(name, home)  # noqa: E731

        def tick(states: dict[str, Job]) -> None:
            view.update(states)
            notifier.see(states)

        outcome = Scheduler(home, ledger, executor, snapshot, view.say, executors).run(plan, tick)
    behind = metrics_sync.finish()
    if behind:
        told = (sentence(behind) or str(behind)).splitlines()[0].rstrip(".")
        click.echo(
            f"error: MLflow could not be told everything ({told}), so no report was written; the same command, or `star-exp reindex`, "
            "carries the rest.",
            err=True,
        )
    before = verdicts(folder)
    code = _conclude(outcome, plan, experiment, options, bool(behind), snapshot.path.name)
    notifier.claims(before, verdicts(folder))
    counts = {"done": outcome.done, "failed": len(outcome.failed), "cancelled": len(outcome.cancelled)}
    ended = "interrupted" if outcome.interrupted else ", ".join(f"{count} {name}" for name, count in counts.items())
    notifier.send("experiment_ended", f"{experiment.name}: ended: {ended}", exit_code=code, **counts)
    notifier.close()
    return code


def refuse_name(experiment: Experiment, home: Home) -> None:
    """Check that no search has the experiment's name, at any profile: each would remove the other's rows.

    Raises:
        SpecError: a search has it.
    """
    searches = {name for (name, _), study in names_of(home).items() if study}
    if experiment.name in searches or experiment.name.removesuffix(EARLY) in searches:
        raise SpecError(
            f"{experiment.file}: experiment: {experiment.name!r} is the name of a search that ran here, or of its comparisons; give "
            "another with --name."
        )


def ready_to_write(home: Home, folder: Path) -> None:
    """Check, before anything is computed, that results can be kept, tracked and reported.

    Raises:
        StarError: the home or the folder for reports cannot be written, or MLflow's database cannot be used.
    """
    home.begin()
    check_tracking(home)
    for name in ("report.md", "provenance.json"):
        writable(folder / name, "--out")


def _is_delivered(shipment: Shipment, home: Home, ledger: Ledger) -> bool:
    """Whether nothing is left to tell the tracker; False where that cannot be found out, and the delivery says why."""
    try:
        return shipment.is_delivered(home, ledger, reader_of(home))
    except StarError:
        return False


def _where(executor: Executor) -> str:
    limits = executor.limits()
    if limits is None:  # who meant a cluster's Ray and got a private one reads it here
        return executor.name if executor.queues else f"{executor.name} of this command alone, which ends with it"
    slots, gpus = limits
    return counted(slots, "slot") + (f", {counted(len(gpus), 'GPU')}" if gpus else "")


def warn_of_limits(plan: Plan, ledger: Ledger | None, executor: str = "slurm") -> None:
    """Say which jobs are expected to need more time than Slurm would give them; nothing for another executor."""
    if executor != "slurm":
        return
    for told in beyond_limits(plan, History(ledger.jobs.taken() if ledger else ())):
        click.echo(f"warning: {told}", err=True)


def keep_budget(plan: Plan, budget: float | None) -> None:
    """Check that what is left to do costs no more GPU-hours than `budget`; None is no limit.

    Raises:
        SpecError: it costs more, or its cost is unknown.
    """
    if budget is None:
        return
    hours = plan.gpu_hours()
    name = plan.experiment.name
    if hours is None:
        raise SpecError(
            f"--budget-gpu-hours {budget:g}: {name} at profile {plan.experiment.profile} names no GPU to count hours of; "
            "give one, such as --set resources.gpu=H100."
        )
    if hours > budget:
        raise SpecError(
            f"--budget-gpu-hours {budget:g}: what is left of {name} costs about {hours:,.1f} GPU-hours; nothing was started. "
            "Raise the budget, or leave out rows or seeds."
        )


def _detach(home: Home, ledger: Ledger, experiment: Experiment) -> int:
    """Start the same command again as a process of its own that outlives this terminal; returns once it is at work."""
    home.logs.mkdir(parents=True, exist_ok=True)
    log = home.logs / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    command = [argument for argument in sys.orig_argv if argument != "--detach"]
    with log.open("ab") as file:
        child = subprocess.Popen(
            [*command, "--plain"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    told = (
        f"detached: process {child.pid} goes on; it writes to {log}. "
        "`star-exp status` and `star-exp watch` show how far it is."
    )
    try:
        while (code := child.poll()) is None:
            # once it is in the ledger, `status` and `watch` find it
            here = (child.pid, socket.gethostname())
            known = [one for one in ledger.schedulers.all().values() if (one.pid, one.host) == here]
            if any(is_alive(one.pid, one.born) for one in known):
                click.echo(told)
                return 0
            time.sleep(0.05)
    except KeyboardInterrupt:  # Ctrl-C of this terminal, which the other process has left already
        click.echo(told)
        return 0
    text = log.read_text(errors="replace").rstrip()
    click.echo(f"{text}\nit ended with exit code {code}; {log} has this too", err=code != 0)
    return code


def _conclude(outcome: Outcome, plan: Plan, whole: Experiment, options: RunOptions, behind: bool, code: str) -> int:
    if outcome.interrupted:
        click.echo("interrupted; the same command goes on where this one stopped")
        return 130
    for job in outcome.failed:
        message = (job.error or "no word").splitlines()[0].removeprefix(f"{job.error_class}: ")
        click.echo(
            f"failed: {job.stage} {job.key} ({job.label}): {job.error_class}: {message}; see `star-exp logs {job.key}`",
            err=True,
        )
    if not behind:
        from star.cli.report import ReportOptions, write_reports

        for kept in write_reports([whole], ReportOptions(options.home, options.out, code=code)):
            click.echo(f"note: {kept}", err=True)
    if outcome.failed or outcome.cancelled or outcome.blocked:
        click.echo(
            f"{counted(outcome.done, 'job')} done, {len(outcome.failed)} failed, {len(outcome.cancelled)} cancelled, "
            f"{len(outcome.blocked)} wait for those"
        )
        return 1
    if behind:
        return 1
    click.echo(
        f"all done: {counted(outcome.done, 'job')} computed, {len(plan.jobs) - len(plan.to_do)} were there already"
        if outcome.done
        else "all done: nothing was left to compute"
    )
    return 0
