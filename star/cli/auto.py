"""`star-exp run --seeds auto`: look at the claims, add seeds to the rows of open ones, until all are decided or the budget is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from star.cli.run import RunOptions, run_experiment
from star.cli.store import existing_ledger, reader_of
from star.errors import SpecError
from star.ledger.store import read_ledger
from star.report.claims import ClaimResult
from star.report.contrasts import UNDECIDED
from star.report.cost import total
from star.report.evidence import Evidence
from star.report.looks import is_hopeless, judge_all, next_look, open_rows
from star.report.rest import by_promise, hours_per_seed, rest_of
from star.rundir import Home
from star.scheduler.estimate import History, stage_seconds
from star.scheduler.plan import Plan, make_plan
from star.spec.experiment import Experiment
from star.spec.seeds import with_seeds
from star.words import counted


@dataclass(frozen=True)
class Step:
    """What follows a look at all claims."""

    counts: Mapping[str, int]
    """Row label -> seeds that it should have; empty if no more are added."""
    lines: Sequence[str]
    """What to tell the user."""


def run_auto(experiment: Experiment, options: RunOptions, budget: float | None) -> int:
    """Run an experiment at the looks that its file plans, with more seeds each time for open claims; returns the exit code.

    The same command again goes on at the look that was reached.

    Args:
        budget: device hours that the experiment may cost in all, with what it has cost so far; None is no limit.

    Raises:
        SpecError: what is left of its seeds before the next look costs more than the budget.
    """
    home = Home(options.home)
    if budget is not None:
        _refuse_beyond(experiment, home, budget)
    while True:
        code = run_experiment(experiment, options)
        if code or options.detach:
            return code
        step = next_step(_evidence(experiment, home), budget)
        click.echo("\n".join(step.lines))
        if not step.counts:
            return 0
        experiment = with_seeds(experiment, step.counts)


def _refuse_beyond(experiment: Experiment, home: Home, budget: float) -> None:
    """Raise SpecError if the seeds that the experiment has now, done or not, cost more than the budget."""
    ledger = read_ledger(home)
    plan = make_plan(experiment, home, ledger)
    if not plan.to_do:
        return
    cost = None if ledger is None else total([Evidence(plan, ledger, reader_of(home))])
    spent = 0.0 if cost is None else cost.cpu_hours + cost.gpu_hours
    gpus = plan.gpu_hours()
    left = _slot_hours(plan, History(ledger.jobs.taken() if ledger else ())) if gpus is None else gpus
    if spent + left > budget or spent >= budget:  # what commands cost is not known before
        jobs = counted(len(plan.to_do), "job")
        raise SpecError(
            f"--budget-hours {budget:g}: {spent:.2g} device hours are spent, and what is left before the next look, {jobs}, costs about "
            f"{left:.2g}; nothing was started. Raise the budget, or give --seeds a number."
        )


def _slot_hours(plan: Plan, history: History) -> float:
    """Expected hours of CPU slots of the jobs to do, without those of which nothing is known: own commands, and GPUs never measured."""
    hours = 0.0
    for job in plan.to_do:
        measured = history.seconds(job.stage, job.flops) is not None
        if measured or (job.flops > 0 and job.spec.resources.device_of(job.stage) == "cpu"):
            hours += stage_seconds(job.stage, job.spec, history, job.flops) * job.slots / 3600
    return hours


def _evidence(experiment: Experiment, home: Home) -> Evidence:
    ledger = existing_ledger(home, experiment.file)
    return Evidence(make_plan(experiment, home, ledger), ledger, reader_of(home))


def next_step(evidence: Evidence, budget: float | None) -> Step:
    """Judge all claims, and choose which rows get more seeds: those of open claims, by what they likely cost to decide.

    A claim whose next look does not fit into what is left of the budget is passed over.
    """
    looks, judged = evidence.experiment.spec.looks, judge_all(evidence)
    hours = hours_per_seed(evidence)
    lines = [f"look     {_told(one, looks)}" for one in judged]
    seeded = {run.label for run in evidence.plan.runs if run.spec.has_seed}  # given images never have more
    rows = {one.claim.id: [row for row in open_rows(one) if row in seeded] for one in judged}
    wanted = {one.claim.id: seeds for one in judged if (seeds := next_look(one, looks)) is not None}
    rests = [rest for one in judged if one.claim.id in wanted and (rest := rest_of(one, evidence, hours))]
    has = {variant.label: len(evidence.runs(variant.label)) for variant in evidence.experiment.variants if variant.runs}
    cost = total([evidence])
    spent = cost.cpu_hours + cost.gpu_hours
    counts, added, passed = dict(has), 0.0, []
    for rest in by_promise(rests):
        new = {row: wanted[rest.claim] for row in rows[rest.claim] if counts[row] < wanted[rest.claim]}
        more = sum((count - counts[row]) * hours.get(row, 0.0) for row, count in new.items())
        if budget is not None and spent + added + more > budget:
            passed.append(f"{rest.claim} ({more:.2g} h)")
            continue
        counts |= new
        added += more
    runs = sum(counts.values()) - sum(has.values())
    if runs:
        left = "" if budget is None else f" of the {max(0.0, budget - spent):.2g} that are left"
        lines.append(f"seeds    {runs} more runs for {_rows(has, counts)}: about {added:.2g} device hours{left}")
    if passed:
        lines.append(f"budget   {budget:g} device hours, {spent:.2g} spent: no more seeds for {', '.join(passed)}")
    return Step(counts if runs else {}, lines)


def _rows(has: Mapping[str, int], counts: Mapping[str, int]) -> str:
    return ", ".join(f"{row} ({has[row]} to {counts[row]})" for row in has if counts[row] > has[row])


def _told(found: ClaimResult, looks: Sequence[int]) -> str:
    look = found.look
    assert look is not None
    where = f"{look.number} of {look.of} ({look.seeds} seeds)" if look.number else f"0 of {look.of}"
    text = f"{where}: {found.claim.id}: {found.verdict}"
    if found.verdict == UNDECIDED:
        if is_hopeless(found, looks):
            text += "; given no more seeds"
        text += f"; {found.note}"
    return text
