"""`star-exp plan`: what would happen, before anything does."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import click

from star.ledger.store import Ledger
from star.rundir import Home
from star.scheduler.estimate import gpu_hours, parameters, stage_flops
from star.scheduler.plan import Plan, make_plan
from star.spec.experiment import Experiment
from star.spec.graph import STAGES
from star.spec.resources import PEAK_TFLOPS


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
    jobs = f"to do: {len(plan.to_do)} of {len(plan.jobs)} jobs, {_amount(plan.flops(), 'FLOP')}"
    disk = f"{_amount(plan.disk(), 'B')} on disk, and up to {_amount(plan.checkpoints(), 'B')} of checkpoints while training"
    gpus = {(run.spec.resources.gpu, run.spec.resources.utilisation) for run in plan.runs}
    if None in {gpu for gpu, _ in gpus}:
        click.echo(f"\n{jobs}, about {_duration(seconds)} on {slots} slots, {disk}")
    else:
        basis = " or ".join(
            f"{gpu} at {share:.0%} of its {PEAK_TFLOPS[gpu]:g} TFLOP/s (dense bf16)"
            for gpu, share in sorted(gpus)
            if gpu
        )
        hours = sum(gpu_hours(job.stage, job.spec) for job in plan.to_do)
        click.echo(f"\n{jobs}, about {hours:,.0f} GPU-hours on {basis}, {disk}")
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
        stages = [stage for stage, key in run.stages.items() if key in plan.jobs]
        cost = _amount(sum(stage_flops(stage, run.spec) for stage in stages), "FLOP")
        if run.spec.resources.gpu:
            cost += f"  {sum(gpu_hours(stage, run.spec) for stage in stages):,.0f} GPU-hours"
        size = f"{parameters(run.spec) / 1e6:,.4g} M parameters"
        click.echo(f"  {run.label:<{width}}  seed {run.seed}  {run.key}  {size}  {cost}  {summary}")
    click.echo(f"\n  {'stage':<10} {'key':<16} {'runs':>4}  {'action':<10} {'cost':>11}  {'GPU-hours':>9}  why")
    order = list(STAGES)
    for job in sorted(plan.jobs.values(), key=lambda job: order.index(job.stage)):
        cost = _amount(stage_flops(job.stage, job.spec), "FLOP")
        hours = f"{gpu_hours(job.stage, job.spec):,.1f}" if job.spec.resources.gpu else "-"
        click.echo(
            f"  {job.stage:<10} {job.key:<16} {len(job.runs):>4}  {job.action:<10} {cost:>11}  {hours:>9}  {job.reason}; {job.label}"
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
                "gpu_hours": gpu_hours(job.stage, job.spec) if job.spec.resources.gpu else None,
            }
            for job in plan.jobs.values()
        ],
        "to_do": {
            "jobs": len(plan.to_do),
            "flops": plan.flops(),
            "seconds": seconds,
            "bytes": plan.disk(),
            "checkpoint_bytes": plan.checkpoints(),
        },
        "missing": plan.missing,
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h"


def _amount(count: float, unit: str) -> str:
    """Four digits, with the prefix that fits."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if count < 1000:
            return f"{count:.4g} {prefix}{unit}"
        count /= 1000
    return f"{count:,.4g} Z{unit}"
