"""`star-exp run` and `report`: scheduler, courier and view put together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from star.cli.view import View
from star.errors import DataError
from star.ledger.store import Ledger
from star.rundir import Home
from star.scheduler.courier import Courier
from star.scheduler.local import LocalExecutor
from star.scheduler.loop import Outcome, Scheduler
from star.scheduler.plan import Plan, make_plan
from star.spec.experiment import Experiment
from star.tracking import Tracker


def run_experiment(experiment: Experiment, path: Path, out: Path, slots: int | None, plain: bool) -> int:
    """Do what is left of an experiment, then report; returns the exit code."""
    home = Home(path)
    ledger = Ledger(home.ledger)
    plan = make_plan(experiment, home, ledger)
    if plan.missing and plan.to_do:
        raise DataError(" ".join(plan.missing))
    # a polite kill is a Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    courier = Courier(home, ledger, plan, lambda: connect(home))
    courier.start()
    with View(plan, home, plain) as view:
        slots = slots or os.cpu_count() or 1
        rest = len(plan.jobs) - len(plan.to_do)
        view.say(
            f"{experiment.name}: {len(plan.runs)} runs; {len(plan.jobs)} jobs, {len(plan.to_do)} to do, "
            f"{rest} done or not needed; {slots} slots"
        )
        outcome = Scheduler(home, ledger, LocalExecutor(), slots, view.say).run(plan, view.update)
    behind = courier.finish()
    if behind:
        click.echo(f"warning: MLflow is behind ({behind}); the same command carries the rest.", err=True)
    return _conclude(outcome, plan, home, out, bool(behind))


def _conclude(outcome: Outcome, plan: Plan, home: Home, out: Path, behind: bool) -> int:
    experiment = plan.experiment
    if outcome.interrupted:
        click.echo("interrupted; the same command goes on where this one stopped")
        return 130
    for job in outcome.failed:
        click.echo(
            f"failed: {job.stage} {job.key} ({job.label}): {job.error_class}: {job.error}; see `star-exp logs {job.key}`",
            err=True,
        )
    if not behind:
        write_report(experiment, home.path, out)
    if outcome.failed or outcome.blocked:
        click.echo(f"{outcome.done} jobs done, {len(outcome.failed)} failed, {len(outcome.blocked)} wait for those")
        return 1
    click.echo(
        f"all done: {outcome.done} jobs computed, {len(plan.jobs) - len(plan.to_do)} were there already"
        if outcome.done
        else "all done: nothing was left to compute"
    )
    return 0


def write_report(experiment: Experiment, path: Path, out: Path) -> None:
    """Write an experiment's table from what is tracked."""
    from star.report.render import write
    from star.report.table import build

    home = Home(path)
    if not home.ledger.exists():
        raise DataError(f"{home.path}: holds no runs yet; `star-exp run {experiment.file}` makes them.")
    ledger = Ledger(home.ledger)
    table = build(experiment, make_plan(experiment, home, ledger), ledger, connect(home))
    for written in write(table, out / experiment.name / experiment.profile):
        click.echo(f"wrote {written}")


def connect(home: Home) -> Tracker:
    """The home's own MLflow database, or the server that MLFLOW_TRACKING_URI names."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return Tracker(uri or f"sqlite:///{home.mlflow}", None if uri else home.artifacts)
