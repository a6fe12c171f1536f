"""Enter an experiment into the ledger, also when it is run again: the contract of docs/resume.md.

An experiment is identified by its name and profile. New rows extend it. A row that is there already and would now be
another run forks it, which is refused unless asked for: the old results would silently leave the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star.errors import SpecError
from star.ledger.states import AGAIN, DONE, ENDED, FOUND, GONE, QUEUED, RUNNING, NewJob, RunRow
from star.ledger.store import Ledger
from star.rundir import Home, read_json, write_bytes, write_json
from star.scheduler.plan import TO_DO, Plan, PlannedJob, PlannedRun
from star.scheduler.records import record_path, written_folder
from star.scheduler.rejudged import kept_changes
from star.scheduler.scripts import keep_scripts
from star.spec.builtin import given_fields
from star.spec.diff import ABSENT, Difference, differences
from star.spec.experiment import Experiment
from star.words import counted

Row = tuple[str, int]
"""Label and seed."""


@dataclass
class Change:
    """How a plan differs from its experiment as it is in the ledger."""

    added: list[Row] = field(default_factory=list)
    removed: dict[Row, str] = field(default_factory=dict)
    """Row -> key of the run it was."""
    forked: dict[Row, tuple[str, str]] = field(default_factory=dict)
    """Row -> keys of the run it was and of the run it is now."""
    differences: list[Difference] = field(default_factory=list)
    """What differs in the forked rows, each difference once."""
    computed: int = 0
    """Forked rows whose former run has results or is being computed."""


def compare(plan: Plan, ledger: Ledger) -> Change:
    """Compare a plan with its experiment as it is in the ledger."""
    before = {
        (row.row, row.seed): row.run for row in ledger.runs.experiments(plan.experiment.name, plan.experiment.profile)
    }
    now = {(run.label, run.seed): run for run in plan.runs}
    change = Change()
    if not before:
        return change
    change.added = [row for row in now if row not in before]
    change.removed = {row: run for row, run in before.items() if row not in now}
    change.forked = {row: (before[row], run.key) for row, run in now.items() if before.get(row, run.key) != run.key}
    if change.forked:
        _explain(change, now, ledger)
    return change


def _explain(change: Change, now: Mapping[Row, PlannedRun], ledger: Ledger) -> None:
    old_runs = ledger.runs.of([old for old, _ in change.forked.values()])
    seen: dict[str, Difference] = {}
    own: list[str] = []
    for row, (old, _) in change.forked.items():
        if old not in old_runs:
            continue
        stages = {stage: key for stage, key in old_runs[old].stages.items() if now[row].stages.get(stage) != key}
        own += stages.values()
        found = list(spec_differences(old_runs[old], now[row]))
        contents = ledger.jobs.contents_of(stages.values()) if not found else {}
        for stage, key in stages.items():
            if found:
                break
            known = contents.get(key)
            for one in differences(known, now[row].content(stage)) if known else ():
                if not one.path.startswith("inputs."):
                    found.append(Difference(f"{stage} {one.path}", one.old, one.new))
        seen |= {str(one): one for one in found}
    change.differences = list(seen.values())
    active = {key for key, place in ledger.jobs.places(own).items() if place.state in (DONE, RUNNING)}
    for row, (old, _) in change.forked.items():
        stages = old_runs[old].stages if old in old_runs else {}
        change.computed += any(key in active and now[row].stages.get(stage) != key for stage, key in stages.items())


def spec_differences(old: RunRow, new: PlannedRun) -> list[Difference]:
    """Return the differences between two runs' specs, without fields that are part of no key, or newer than the old run and not set."""
    given = new.spec.model_dump(mode="json", exclude_defaults=True)
    found = [
        one
        for one in differences(old.spec, new.spec.model_dump(mode="json"))
        if one.old is not ABSENT or _is_set(one.path, given)
    ]
    return [
        one
        for one in found
        if not one.path.startswith("resources")
        and one.path not in given_fields()
        and not one.path.startswith(("stages.", "plugins."))
    ]


def _is_set(path: str, given: Mapping[str, Any]) -> bool:
    inner: Any = given
    for name in path.split("."):
        if not isinstance(inner, Mapping) or name not in inner:
            return False
        inner = inner[name]
    return True


def refuse_fork(plan: Plan, change: Change) -> None:
    """Refuse a plan that would take computed results out of the table.

    Raises:
        SpecError: it would; the message says what differs, and what to do.
    """
    if not change.computed:
        return
    what = "; ".join(map(str, change.differences[:5])) or "see `star-exp why KEY`"
    more = f"; and {len(change.differences) - 5} more" if len(change.differences) > 5 else ""
    rows = counted(len(change.forked), "row")
    raise SpecError(
        f"{plan.experiment.file}: {plan.experiment.name} at profile {plan.experiment.profile} was run with other values: "
        f"{what}{more} ({rows}, {change.computed} with results). Its results would leave the table, though not the disk: "
        "give --fork to put the new runs in their place, --name NAME to make them an experiment of their own, or undo the change."
    )


def register(
    plan: Plan, home: Home, ledger: Ledger, say: Callable[[str], None], fork: bool = False, whole: Plan | None = None
) -> None:
    """Enter an experiment into the ledger, write its record for `reindex`, and bring its jobs' states up to date.

    Args:
        whole: the experiment with all its rows, when the plan has only some of them.

    Raises:
        SpecError: it would fork and computed results would leave the table, but `fork` was not given; or no row has
            anything to run.
        DataError: a script or plugin was changed since the plan was made.
    """
    whole = whole or plan
    if not plan.runs:
        raise SpecError(f"{plan.experiment.file}: nothing to run: all these rows are quoted.")
    change = compare(whole, ledger)
    if not fork:
        refuse_fork(whole, change)
    if change.added:
        say(f"extended by {counted(len(change.added), 'run')}")
    if change.forked:
        say(f"forked   {counted(len(change.forked), 'run')}: {'; '.join(map(str, change.differences[:5]))}")
    if change.removed:
        say(
            f"left out {counted(len(change.removed), 'run')} that the experiment had; their results stay, their running jobs go on "
            f"(`star-exp cancel {next(iter(change.removed.values()))}` would stop one)"
        )
    keep_scripts(plan, home)
    record(whole, home)
    ledger.runs.add([run_row(run) for run in whole.runs])
    rows = [(run.label, run.seed, run.key) for run in whole.runs]
    ledger.runs.set_experiment(plan.experiment.name, plan.experiment.profile, reached(plan.experiment), rows)
    folders = home.job_folders()
    ledger.jobs.add([_new_job(job, home, folders) for job in plan.jobs.values() if job.action != "not needed"])
    _settle(plan, home, ledger, folders)


def add(plan: Plan, home: Home, ledger: Ledger, study: str) -> None:
    """Add trials of a study to its experiment, which grows while it runs; its earlier rows stay."""
    keep_scripts(plan, home)
    rows = [(run.label, run.seed, run.key) for run in plan.runs]
    ledger.runs.add([run_row(run) for run in plan.runs])
    ledger.runs.extend_experiment(plan.experiment.name, plan.experiment.profile, reached(plan.experiment), rows)
    folders = home.job_folders()
    ledger.jobs.add([_new_job(job, home, folders) for job in plan.jobs.values() if job.action != "not needed"])
    _settle(plan, home, ledger, folders)
    record(plan, home, study)


def _new_job(job: PlannedJob, home: Home, folders: set[str]) -> NewJob:
    """Make a job's entry. Its attempts count on from its folder's: with a new ledger, an old worker may still run."""
    attempt = home.job(job.stage, job.key).attempt() if f"{job.stage}-{job.key}" in folders else 0
    return NewJob(job.key, job.stage, job.label, job.flops, job.run.content(job.stage), attempt)


def run_row(run: PlannedRun) -> RunRow:
    """Return the run as a row of the ledger."""
    return RunRow(run.key, run.name, run.seed, run.spec.model_dump(mode="json"), dict(run.stages), None, 0.0)


def record(plan: Plan, home: Home, study: str | None = None) -> None:
    """Write the experiment's record, from which `reindex` restores it.

    Args:
        study: the study whose trials the rows are; the rows that the record has already then stay.
    """
    home.experiments.mkdir(parents=True, exist_ok=True)
    path = record_path(home, plan.experiment.name, plan.experiment.profile)
    rows = [{"row": run.label, "run": run_row(run).__dict__, "sources": dict(run.sources)} for run in plan.runs]
    folder = written_folder(home, plan.experiment.name, plan.experiment.profile)
    for name, text in plan.experiment.written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, text.encode("utf-8", "surrogateescape"), durable=False)
    before = read_json(path) or {}
    if study is not None:
        new = {(run.label, run.seed) for run in plan.runs}
        rows = [*(row for row in before.get("rows", ()) if (row["row"], row["run"]["seed"]) not in new), *rows]
    write_json(
        path,
        {
            "experiment": plan.experiment.name,
            "profile": plan.experiment.profile,
            "targets": list(reached(plan.experiment)),
            "rows": rows,
            "study": study,
            "inputs": [file.name for file in plan.inputs],
            # a study's report makes its table; an experiment's is shown while it fills, wherever its file is
            "layout": None if study is not None else _layout(plan.experiment),
            "auto": plan.experiment.seeding == "auto",
            "rejudged": [] if study is not None else kept_changes(before, plan.experiment, home),
        },
        durable=study is None,
    )


def reached(experiment: Experiment) -> tuple[str, ...]:
    """Return an experiment's targets, as the ledger keeps them.

    With user-defined stages or plugins these are all needed stages: only the experiment knows what such stages need.
    """
    declares = experiment.spec.stages or experiment.spec.plugins
    return experiment.needed if declares else experiment.targets


def _layout(experiment: Experiment) -> dict[str, Any]:
    return {
        "file": str(Path(experiment.file).resolve()),
        "spec": experiment.spec.model_dump(mode="json", exclude_unset=True),
        "rows": [variant.row.model_dump(mode="json") for variant in experiment.variants],
    }


def _settle(plan: Plan, home: Home, ledger: Ledger, folders: set[str]) -> None:
    """Update jobs whose folder says more than the ledger, and queue those that failed and are wanted again."""
    wanted = {key for key, job in plan.jobs.items() if job.action in TO_DO}
    for key, job in ledger.jobs.of(plan.jobs).items():
        has_result = f"{job.stage}-{key}" in folders and home.job(job.stage, key).read_result() is not None
        if key not in wanted:
            if has_result and job.state != DONE:  # its worker outlived the scheduler that started it
                ledger.jobs.move(job, DONE, FOUND, "result found in its folder")
        elif job.state in ENDED:
            ledger.jobs.move(job, QUEUED, AGAIN, "asked for again")
        elif job.state == DONE and not home.job(job.stage, key).is_complete():  # it may have ended since planning
            ledger.jobs.move(job, QUEUED, GONE, "its result, or an output that is needed again, has gone")
            ledger.runs.forget_tracked([key])
