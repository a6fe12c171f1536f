"""`star-exp plan`: what would happen, before anything does."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import click

from star.ledger.store import Ledger
from star.rundir import Home
from star.scheduler.estimate import parameters, stage_flops
from star.scheduler.plan import Plan, make_plan
from star.spec.experiment import Experiment
from star.spec.graph import STAGES


def show_plan(experiment: Experiment, path: Path, as_json: bool) -> None:
    """Print the plan of an experiment."""
    home = Home(path)
    ledger = Ledger(home.ledger) if home.ledger.exists() else None
    plan = make_plan(experiment, home, ledger)
    speeds = ledger.speeds() if ledger else {}
    slots = os.cpu_count() or 1
    seconds = plan.seconds(speeds, slots)
    if as_json:
        click.echo(json.dumps(_as_json(plan, seconds), indent=1))
        return
    _print(plan)
    click.echo(
        f"\nto do: {len(plan.to_do)} of {len(plan.jobs)} jobs, {plan.flops() / 1e12:,.4g} TFLOP, "
        f"about {_duration(seconds)} on {slots} slots, {_size(plan.disk())} on disk"
    )
    for reason in plan.missing:
        click.echo(f"missing: {reason}")


def _print(plan: Plan) -> None:
    experiment = plan.experiment
    click.echo(f"{experiment.name}: {experiment.spec.title} · profile {experiment.profile}")
    click.echo(
        f"{len(experiment.variants)} rows, {len(plan.runs)} runs ({len({run.key for run in plan.runs})} distinct)\n"
    )
    width = max(len(run.label) for run in plan.runs)
    for run in plan.runs:
        actions = Counter(plan.jobs[key].action for key in run.stages.values() if key in plan.jobs)
        summary = ", ".join(f"{count} {action}" for action, count in actions.items())
        click.echo(
            f"  {run.label:<{width}}  seed {run.seed}  {run.key}  {parameters(run.spec) / 1e6:.3g} M parameters  {summary}"
        )
    click.echo(f"\n  {'stage':<10} {'key':<16} {'runs':>4}  {'action':<10} {'GFLOP':>12}  why")
    order = list(STAGES)
    for job in sorted(plan.jobs.values(), key=lambda job: order.index(job.stage)):
        gflop = stage_flops(job.stage, job.spec) / 1e9
        click.echo(
            f"  {job.stage:<10} {job.key:<16} {len(job.runs):>4}  {job.action:<10} {gflop:>12,.0f}  {job.reason}; {job.label}"
        )


def _as_json(plan: Plan, seconds: float) -> dict[str, object]:
    return {
        "experiment": plan.experiment.name,
        "profile": plan.experiment.profile,
        "runs": [
            {
                "label": run.label,
                "seed": run.seed,
                "key": run.key,
                "parameters": parameters(run.spec),
                "stages": run.stages,
            }
            for run in plan.runs
        ],
        "jobs": [
            {
                "key": job.key,
                "stage": job.stage,
                "inputs": job.inputs,
                "runs": job.runs,
                "action": job.action,
                "reason": job.reason,
                "flops": stage_flops(job.stage, job.spec),
            }
            for job in plan.jobs.values()
        ],
        "to_do": {"jobs": len(plan.to_do), "flops": plan.flops(), "seconds": seconds, "bytes": plan.disk()},
        "missing": plan.missing,
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
