"""`star-exp run --dry-run`: prints the batch scripts that Slurm would get. Nothing is written or submitted."""

from __future__ import annotations

from pathlib import Path

import click

from star.cli.run import keep_budget, warn_of_limits
from star.errors import ExecutorError
from star.ledger.states import Allocation
from star.ledger.store import read_ledger
from star.rundir import Home
from star.scheduler.executor import Start
from star.scheduler.plan import PlannedJob, make_plan
from star.scheduler.slurm_script import Part, parts_of
from star.scheduler.snapshot import place_of
from star.spec.experiment import Experiment

SHOWN = 4
"""Number of jobs of an array that are named; the others are counted."""


def show_scripts(experiment: Experiment, path: Path, executor: str, budget: float | None) -> None:
    """Print a script for each job or array, in the order of submission; a later one names an earlier one's number as JOB1, JOB2, ...

    Raises:
        ExecutorError: the executor is not Slurm, so it has no scripts, or submitit is not installed.
        SpecError: the jobs cost more GPU-hours than `budget`, or their cost is unknown.
    """
    if executor != "slurm":
        raise ExecutorError(
            f"--dry-run: shows the batch scripts of Slurm, and {executor} has none; give --executor slurm, or see "
            "`star-exp plan`."
        )
    try:
        import submitit  # noqa: F401  # writes the scripts
    except ModuleNotFoundError as error:
        raise ExecutorError(
            f"--dry-run: {error.name} is not installed; `pip install -e '.[slurm]'` in star's clone brings it."
        ) from None
    home, code = Home(path), place_of(Home(path))
    ledger = read_ledger(home)
    plan = make_plan(experiment, home, ledger)
    keep_budget(plan, budget)
    warn_of_limits(plan, ledger)
    left = {job.key: job for job in plan.to_do}
    numbers: dict[str, str] = {}
    parts: list[Part] = []
    while left:
        wave = [job for job in left.values() if not left.keys() & set(job.inputs.values())]
        jobs = {f"{job.stage}-{job.key}": job for job in wave}
        for part in parts_of([_start(job, home, code, numbers) for job in wave]):
            parts.append(part)
            for index, start in enumerate(part.starts):
                numbers[jobs[start.name].key] = f"JOB{len(parts)}" + (f"_{index}" if len(part.starts) > 1 else "")
        for job in wave:
            del left[job.key]
    for i, part in enumerate(parts, start=1):
        told = [start.title[2] or f"{start.title[1]} of several rows" for start in part.starts[:SHOWN]]
        more = f", and {len(part.starts) - SHOWN} more" if len(part.starts) > SHOWN else ""
        click.echo(f"# JOB{i}: {len(part.starts)} job{'s' * (len(part.starts) > 1)}: {'; '.join(told)}{more}")
        click.echo(part.script(part.name("NUMBER"), home.path / "slurm"))
    click.echo(f"# {len(parts)} scripts, {len(plan.to_do)} of {len(plan.jobs)} jobs; nothing was submitted")


def _start(job: PlannedJob, home: Home, code: Path, numbers: dict[str, str]) -> Start:
    after = tuple({"job": numbers[key]} for key in job.inputs.values() if key in numbers)
    title = (job.run.experiment, job.stage, job.run.name if len(job.runs) == 1 else "")
    name = f"{job.stage}-{job.key}"
    return Start(
        home.job(job.stage, job.key),
        job.stage,
        name,
        code,
        job.spec.resources,
        Allocation(None, executor="slurm"),
        after,
        1,
        title,
    )
