"""`star-exp plan`: shows what a run would compute and cost, without starting it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from star.cli.run import keep_budget
from star.devices import usable_cores
from star.ledger.store import read_ledger
from star.rundir import Home
from star.scheduler.estimate import History, gpu_hours
from star.scheduler.plan import Plan, PlannedJob, PlannedRun, make_plan
from star.scheduler.registration import compare
from star.spec.experiment import Experiment
from star.spec.resources import PEAK_TFLOPS
from star.words import counted

LINES = 400
"""Most runs, and most jobs, that are printed one by one; --json has them all."""


def show_plan(experiment: Experiment, path: Path, budget: float | None, as_json: bool) -> None:
    """Print the plan of an experiment.

    Raises:
        SpecError: after printing, if the plan costs more GPU-hours than `budget`, or its cost is unknown.
    """
    home = Home(path)
    ledger = read_ledger(home)
    plan = make_plan(experiment, home, ledger)
    history = History(ledger.jobs.taken() if ledger else ())
    slots = usable_cores()
    seconds = plan.seconds(history, slots)
    if as_json:
        click.echo(json.dumps(_as_json(plan, seconds)))
    else:
        change = compare(plan, ledger) if ledger else None
        lines = [*_lines(plan), "", _total(plan, seconds, slots)]
        if change and change.forked:
            lines.append(
                f"fork: {counted(len(change.forked), 'run')} changed: {'; '.join(map(str, change.differences))}"
            )
        lines += [f"found: {note}" for note in plan.found]
        lines += [f"assumed: {note}" for note in plan.assumed]
        lines += [f"missing: {reason}" for reason in plan.missing]
        click.echo("\n".join(lines))
    keep_budget(plan, budget)


def _total(plan: Plan, seconds: float, slots: int) -> str:
    own = sum(is_own(job) for job in plan.to_do)
    jobs = f"to do: {len(plan.to_do)} of {len(plan.jobs)} jobs"
    if own and own == len(plan.to_do):
        return f"{jobs}, of your own, so nobody knows what they cost"
    jobs += f", {amount(plan.flops(), 'FLOP')}" + (f" beside {own} of your own" if own else "")
    disk = (
        f"{amount(plan.disk(), 'B')} on disk, and up to {amount(plan.checkpoints(), 'B')} of checkpoints while training"
    )
    hours = plan.gpu_hours()
    if hours is None:
        return f"{jobs}, about {_duration(seconds)} on {counted(slots, 'slot')}, {disk}"
    gpus = {(run.spec.resources.gpu, run.spec.resources.utilisation) for run in plan.runs}
    basis = " or ".join(
        f"{gpu} at {share:.0%} of its {PEAK_TFLOPS[gpu]:g} TFLOP/s (dense bf16)" for gpu, share in sorted(gpus) if gpu
    )
    return f"{jobs}, about {_hours(hours)} GPU-hours on {basis}, {disk}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _lines(plan: Plan) -> Iterator[str]:
    experiment = plan.experiment
    yield f"{experiment.name}: {experiment.spec.title} · profile {experiment.profile}"
    yield f"{counted(len(experiment.variants), 'row')}, {counted(len(plan.runs), 'run')} ({len({run.key for run in plan.runs})} distinct)\n"
    shown = plan.runs[:LINES]
    width = max((len(run.label) for run in shown), default=0)
    for run in shown:
        yield _run_line(plan, run, width)
    if len(plan.runs) > LINES:
        yield f"  ... and {len(plan.runs) - LINES} more"
    yield f"\n  {'stage':<10} {'key':<16} {'runs':>4}  {'action':<10} {'cost':>11}  {'GPU-hours':>9}  why"
    order = list(experiment.spec.pipeline)
    jobs = sorted(plan.jobs.values(), key=lambda job: order.index(job.stage))
    if len(jobs) > LINES:  # summed up by stage and action
        counts = Counter((job.stage, job.action) for job in jobs)
        costs: Counter[tuple[str, str]] = Counter()
        for job in jobs:
            costs[job.stage, job.action] += int(job.flops)
        for (stage, action), count in counts.items():
            cost = amount(float(costs[stage, action]), "FLOP")
            yield f"  {stage:<10} {counted(count, 'job'):<16} {'':>4}  {action:<10} {cost:>11}"
        return
    for job in jobs:
        hours = f"{gpu_hours(job.spec, job.flops):,.1f}" if job.spec.resources.gpu else "-"
        cost = "-" if is_own(job) else amount(job.flops, "FLOP")
        yield (
            f"  {job.stage:<10} {job.key:<16} {len(job.runs):>4}  {job.action:<10} {cost:>11}  {hours:>9}  {job.reason}; {job.label}"
        )


def _run_line(plan: Plan, run: PlannedRun, width: int) -> str:
    jobs = [plan.jobs[key] for key in run.stages.values() if key in plan.jobs]
    summary = ", ".join(f"{count} {action}" for action, count in Counter(job.action for job in jobs).items())
    flops = sum(job.flops for job in jobs)
    cost = amount(flops, "FLOP") if flops or any(stage.flops for stage in run.spec.pipeline.values()) else ""
    if run.spec.resources.gpu:
        cost += f"  {_hours(gpu_hours(run.spec, flops))} GPU-hours"
    size = "" if run.spec.num_parameters is None else f"{run.spec.num_parameters / 1e6:,.4g} M parameters  "
    return f"  {run.label:<{width}}  seed {run.seed}  {run.key}  {size}{cost}  {summary}"


def is_own(job: PlannedJob) -> bool:
    """Whether a job is of a user's own stage, whose cost is unknown."""
    return job.spec.pipeline[job.stage].is_own


def _as_json(plan: Plan, seconds: float) -> dict[str, object]:
    return {
        "experiment": plan.experiment.name,
        "profile": plan.experiment.profile,
        "runs": [
            {
                "label": run.label,
                "seed": run.seed,
                "key": run.key,
                "parameters": run.spec.num_parameters,
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
                "flops": job.flops,
                "gpu_hours": gpu_hours(job.spec, job.flops) if job.spec.resources.gpu else None,
            }
            for job in plan.jobs.values()
        ],
        "to_do": {
            "jobs": len(plan.to_do),
            "flops": plan.flops(),
            "seconds": seconds,
            "gpu_hours": plan.gpu_hours(),
            "bytes": plan.disk(),
            "checkpoint_bytes": plan.checkpoints(),
        },
        "found": plan.found,
        "assumed": plan.assumed,
        "missing": plan.missing,
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h"


def amount(count: float, unit: str) -> str:
    """A number with its unit, as four significant digits with the prefix that fits, such as `1.5 GB`."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if count < 1000:
            return f"{count:.4g} {prefix}{unit}"
        count /= 1000
    return f"{count:,.4g} Z{unit}"
