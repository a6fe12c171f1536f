"""`star-exp diff`, `why`, `retry`, `cancel`, `rerun`, `forget`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from star.cli.status import look
from star.errors import SpecError
from star.ledger.states import CANCELLED, DONE, FAILED, Job
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home
from star.scheduler.executors import make_executor
from star.scheduler.explain import Reason, compare, why
from star.scheduler.job_actions import Chosen, cancel, choose, forget, rerun, retry
from star.spec.diff import Difference
from star.words import counted


def show_diff(path: Path, first: str, second: str, as_json: bool) -> None:
    """Print what differs between two runs or jobs."""
    home, ledger = look(path)
    found = compare(home, ledger, first, second)
    if as_json:
        parts = {"spec": _as_json(found.spec), "results": found.results, "provenance": _as_json(found.provenance)}
        click.echo(json.dumps(parts, indent=1, default=str))
        return
    lines = ["spec:", *(f"  {one}" for one in found.spec)] if found.spec else ["spec: the same"]
    if found.results:
        lines.append("results:")
        width = max(map(len, found.results))
        for name, (left, right) in found.results.items():
            change = f"  {right - left:+.6g}" if left is not None and right is not None else ""
            lines.append(f"  {name:<{width}}  {_number(left):>12}  {_number(right):>12}{change}")
    lines += ["provenance:", *(f"  {one}" for one in found.provenance)] if found.provenance else []
    click.echo("\n".join(lines))


def _as_json(found: Sequence[Difference]) -> list[dict[str, Any]]:
    return [{"path": one.path, "old": one.old, "new": one.new} for one in found]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def show_why(path: Path, prefix: str, as_json: bool) -> None:
    """Print the last event of a job, or of each job of a run, and what differs from the nearest other job."""
    _, ledger = look(path)
    kind, key = ledger.resolve(prefix)
    keys = list(ledger.runs.of([key])[key].stages.values()) if kind == "run" else [key]
    known = ledger.jobs.places(keys)
    reasons = [why(ledger, one) for one in keys if one in known]
    if as_json:
        click.echo(json.dumps([_reason_json(reason) for reason in reasons], indent=1, default=str))
        return
    for reason in reasons:
        click.echo("\n".join(_reason_lines(reason)))


def _reason_json(reason: Reason) -> dict[str, Any]:
    return {
        "job": reason.job.key,
        "stage": reason.job.stage,
        "state": reason.job.state,
        "last": reason.last,
        "nearest": reason.nearest.key if reason.nearest else None,
        "differences": _as_json(reason.differences or []),
    }


def _reason_lines(reason: Reason) -> list[str]:
    lines = [f"{reason.job.stage} {reason.job.key}  {reason.last}"]
    if reason.nearest is None:
        return [*lines, "  it is the only job of its stage here"]
    lines.append(f"  nearest: {reason.nearest.key}  {reason.nearest.label} ({reason.nearest.state})")
    found = reason.differences or []
    lines.append(f"  first difference: {found[0] if found else 'none that is known'}")
    return [*lines, *(f"  also: {one}" for one in found[1:])]


def retry_jobs(path: Path, keys: Sequence[str], experiment: str | None, failed: bool) -> None:
    """Queue again jobs that failed, were cancelled or got lost."""
    ledger = _open(path)[1]
    if failed and not keys and experiment is None:
        chosen: list[Job] = ledger.jobs.of_state(FAILED)
    else:
        found = _chosen(ledger, keys, experiment, "--failed").jobs.values()
        chosen = [job for job in found if job.state == FAILED or not failed]
    moved = retry(ledger, chosen)
    for job in moved:
        click.echo(f"queued   {job.stage} {job.key}  {job.label}  (was {job.state})")
    if not moved:
        click.echo("nothing to retry: none of these jobs has failed, was cancelled or got lost")
    elif not any(watcher.may_be_alive() for watcher in ledger.schedulers.all().values()):
        click.echo("no scheduler is at work; `star-exp run FILE` computes them")


def cancel_jobs(path: Path, keys: Sequence[str], experiment: str | None) -> None:
    """Cancel jobs; those that other runs need too are left alone unless their keys are named."""
    home, ledger = _open(path)
    chosen = _chosen(ledger, keys, experiment, None, alone=True)
    if chosen.shared:
        click.echo(f"left alone: {len(chosen.shared)} jobs that other runs need too; name their keys to cancel them")
    left = cancel(home, ledger, chosen.jobs.values(), lambda name: make_executor(name, home), click.echo)
    for job in left:
        click.echo(f"{job.stage} {job.key} still runs on {job.location}; its scheduler has been asked", err=True)
    _tell_tracker(home, ledger, [job.key for job in chosen.jobs.values() if job.state != DONE])
    if not chosen.jobs or all(job.state == DONE for job in chosen.jobs.values()):
        click.echo("nothing to cancel: all of it is done")


def _tell_tracker(home: Home, ledger: Ledger, keys: list[str]) -> None:
    """End cancelled jobs in MLflow too: a scheduler that is at work does so only for its own experiment."""
    cancelled = [job.key for job in ledger.jobs.of(keys).values() if job.state == CANCELLED]
    if not cancelled:
        return
    from star.cli.store import connect
    from star.scheduler.reindex import deliver, end_left_out

    try:
        deliver(home, ledger, lambda: connect(home), jobs=cancelled)
        end_left_out(home, ledger, lambda: connect(home), cancelled)
    except Exception as error:  # a tracker that does not answer may raise anything; the jobs are cancelled all the same
        click.echo(f"warning: MLflow is behind ({str(error).splitlines()[0]}); the next run tells it.", err=True)


def rerun_jobs(path: Path, keys: Sequence[str], experiment: str | None) -> None:
    """Queue done jobs, and all that was made from them, to be computed again."""
    home, ledger = _open(path)
    chosen = _chosen(ledger, keys, experiment, None)
    moved = rerun(home, ledger, chosen.jobs.values())
    for job in moved:
        click.echo(f"queued   {job.stage} {job.key}  {job.label}")
    click.echo(
        f"queued {counted(len(moved), 'job')}; what they had made is in {home.aside}. `star-exp run FILE` computes them."
    )


def forget_experiments(path: Path, names: Sequence[str], over: bool) -> None:
    """Take experiments out of `status` and the board; their results stay."""
    home, ledger = _open(path)
    if bool(names) == over:
        raise SpecError("forget: give names of experiments, or --over for all of which nothing is queued or runs.")
    for name, profile in forget(home, ledger, names, over):
        click.echo(
            f"forgotten: {name} ({profile}); its results stay: `star-exp gc --left-out --delete` removes what no experiment needs"
        )


def _open(path: Path) -> tuple[Home, Ledger]:
    look(path)
    home = Home(path)
    return home, open_ledger(home)


def _chosen(
    ledger: Ledger, keys: Sequence[str], experiment: str | None, option: str | None, alone: bool = False
) -> Chosen:
    if not keys and experiment is None:
        raise SpecError(f"give keys, or --experiment NAME{f', or {option}' if option else ''}.")
    return choose(ledger, keys, experiment, alone)
