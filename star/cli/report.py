"""`star-exp report` and `claims`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from star.cli.places import writable
from star.cli.store import existing_ledger, reader_of
from star.errors import DataError, NotFoundError, SpecError
from star.ledger.store import read_ledger
from star.report.evidence import Evidence
from star.report.looks import judge_all
from star.rundir import Home
from star.scheduler.own import adopt
from star.scheduler.plan import Plan, make_plan
from star.scheduler.rejudged import rejudged
from star.spec.experiment import Experiment

if TYPE_CHECKING:
    from star.report.study import StudyReport
    from star.report.write import Report
    from star.spec.points import Search
    from star.tracking.reader import Reader

EXPERIMENTS = Path("experiments")


def all_files(files: Sequence[Path], everything: bool) -> list[Path]:
    """The files to report on: those given, or all of experiments/.

    Raises:
        SpecError: neither or both were asked for, or there is none.
    """
    if bool(files) == everything:
        raise SpecError(
            "report: give experiment files, such as experiments/table4.yaml, or --all for those of experiments/."
        )
    found = list(files) or sorted(EXPERIMENTS.glob("*.yaml"))
    if not found:
        raise SpecError(f"--all: {EXPERIMENTS.resolve()} holds no *.yaml; go to the folder that holds experiments/.")
    return found


@dataclass(frozen=True)
class ReportOptions:
    """How to report, as the command line says."""

    home: Path
    out: Path
    index: bool = False
    """Write an index too, and leave out experiments of which no run is tracked."""
    mlflow_ui: str | None = None
    spread: str | None = None
    replace: bool = False
    """Write also over a report that holds more numbers than the new one."""
    code: str | None = None
    """Digest of this code, to leave a report as it is that would come out the same; None writes every report."""


def write_reports(
    asked: Sequence[Experiment | Plan], options: ReportOptions, studies: Sequence[StudyReport] = ()
) -> list[str]:
    """Write reports, from tracked metrics, of experiments and of plans of what was run.

    Returns:
        A sentence for each report that was not written because the one that is there holds more numbers.

    Raises:
        DataError: data of an experiment are not what its spec says; with `index`, after the others are written.
    """
    from star.report.fuller import kept_back
    from star.report.unchanged import fingerprint, is_unchanged
    from star.report.write import build

    home, out, index = Home(options.home), options.out, options.index
    experiments = [one.experiment if isinstance(one, Plan) else one for one in asked]
    ledger = existing_ledger(home, experiments[0].file)
    reader, reports, never = reader_of(home), [], []
    address = _address(options.mlflow_ui)
    _refuse_one_place(experiments, studies, out)
    broken, kept, made = [], [], {}
    for one, experiment in zip(asked, experiments, strict=True):
        try:
            plan = one if isinstance(one, Plan) else make_plan(one, home, ledger)
        except DataError as error:
            if not index:
                raise
            broken.append(f"{experiment.file}: {error}")
            continue
        evidence = Evidence(plan, ledger, reader, rejudged(home, experiment))
        _take_over(home, evidence, reader)
        if index and not evidence.tracked:
            never.append(experiment.name)
            continue
        _warn_of_lost(evidence)
        folder = writable(out / experiment.name / experiment.profile / "report.md", "--out").parent
        made_of = fingerprint(evidence, options.code, address, options.spread) if options.code else None
        if made_of is not None and is_unchanged(home, folder, made_of):
            click.echo(f"unchanged: {folder / 'report.md'}")
            continue
        report = build(evidence, address, options.spread)
        why = None if options.replace else kept_back(report, folder)
        if why is None:
            reports.append((report, folder))
            made[folder] = made_of
        else:
            kept.append(f"{why}; {_instead(experiment, isinstance(one, Plan))}")
    _write(home, reports, made)
    if index:
        kept += _index([report for report, _ in reports], studies, options)
    if never:
        click.echo(f"left out, because none of their runs is tracked here: {', '.join(never)}")
    if broken:
        raise DataError(f"{len(broken)} experiments could not be reported, the others are: {' '.join(broken)}")
    return kept


def _write(home: Home, reports: Sequence[tuple[Report, Path]], made: Mapping[Path, str | None]) -> None:
    """Write reports, and keep what each was made of; `made` has that for each folder, or None to keep nothing."""
    from star.report.unchanged import remember
    from star.report.write import write

    for written in write(reports):
        click.echo(f"wrote {written}")
    for folder, made_of in made.items():
        if made_of is not None:
            remember(home, folder, made_of)


def _take_over(home: Home, evidence: Evidence, reader: Reader) -> None:
    """Copy numbers that were logged only to MLflow into the jobs' folders; a damaged file there is only a warning."""
    try:
        adopt(home, {run.key: run.stages for run in evidence.plan.runs}, evidence.tracked, reader)
    except DataError as error:
        click.echo(f"warning: {error}", err=True)


def _index(reports: list[Report], studies: Sequence[StudyReport], options: ReportOptions) -> list[str]:
    """Write the index; returns why it was not written if the one that is there has more entries, else nothing."""
    from star.report.fuller import index_kept_back
    from star.report.index import write_index

    why = None if options.replace else index_kept_back(options.out, len(reports) + len(studies))
    if why is not None:
        return [f"{why}; --replace writes it."]
    for written in write_index(reports, options.out, studies):
        click.echo(f"wrote {written}")
    return []


def _instead(experiment: Experiment, as_run: bool) -> str:
    if as_run:
        return f"`star-exp report {experiment.name} --replace` writes it all the same."
    return f"`star-exp report {experiment.name}` reports it as it was last run, --replace writes this one all the same, --out elsewhere."


def _refuse_one_place(experiments: Sequence[Experiment], studies: Sequence[StudyReport], out: Path) -> None:
    names = [(experiment.name, experiment.profile) for experiment in experiments]
    names += [(study.search.name, study.search.profile) for study in studies]
    for experiment in experiments:
        if names.count((experiment.name, experiment.profile)) > 1:
            raise SpecError(
                f"{experiment.file}: experiment: {experiment.name!r} is the name of another of these files too, and both would be "
                f"written to {out / experiment.name}; give each its own."
            )


def _warn_of_lost(evidence: Evidence) -> None:
    """Warn if runs are done but not in MLflow, where the table looks for them, or if no run is tracked at all."""
    plan = evidence.plan
    for note in plan.assumed:
        click.echo(f"note: {note}", err=True)
    lost = [
        run
        for run in plan.runs
        if run.key not in evidence.tracked
        and all(plan.jobs[run.stages[t]].action == "reuse" for t in plan.experiment.targets if t in run.stages)
    ]
    if lost:
        click.echo(
            f"warning: {plan.experiment.name}: {len(lost)} of {len(plan.runs)} runs are done, and MLflow does not hold them (deleted "
            "there?); `star-exp reindex` carries them there.",
            err=True,
        )
    elif not evidence.tracked:
        click.echo(
            f"warning: {plan.experiment.name}: none of its runs is tracked yet, so its table is empty; "
            f"`star-exp run {plan.experiment.file}` computes them.",
            err=True,
        )


def write_studies(
    searches: Sequence[Search],
    path: Path,
    out: Path,
    lenient: bool = False,
    mlflow_ui: str | None = None,
    replace: bool = False,
) -> list[StudyReport]:
    """Write reports of searches; returns those that were written.

    Args:
        lenient: leave out searches that were never begun.
        replace: write also over a report that has more trials.

    Raises:
        NotFoundError: a search was never begun, unless `lenient`.
    """
    if not searches:
        return []
    from star.report.fuller import trials_kept_back
    from star.report.study import StudyReport
    from star.report.study_files import write_study
    from star.search.study import Study

    home, reports = Home(path), []
    reader = reader_of(home)
    for search in searches:
        try:
            study = Study(search, home, begin=False)
        except NotFoundError:
            if not lenient:
                raise
            continue
        report = StudyReport(search, study, home, read_ledger(home), reader, _address(mlflow_ui))
        why = None if replace else trials_kept_back(out / report.folder, len(report.trials))
        if why is not None:
            click.echo(f"note: {why}; --replace writes it all the same.", err=True)
            continue
        for written in write_study(report, out):
            click.echo(f"wrote {written}")
        reports.append(report)
    return reports


def _address(mlflow_ui: str | None) -> str:
    """The address of the MLflow server that the cells of a report link to."""
    from star.report.write import MLFLOW_UI

    if mlflow_ui is not None and not mlflow_ui.startswith(("http://", "https://")):
        raise SpecError(f"--mlflow-ui {mlflow_ui}: give an address such as http://127.0.0.1:5000.")
    address = mlflow_ui or os.environ.get("MLFLOW_TRACKING_URI", "")
    return address if address.startswith("http") else MLFLOW_UI


def show_claims(
    asked: Sequence[Experiment | Plan], path: Path, fail_on: Sequence[str], as_json: bool, rest: bool = False
) -> int:
    """Print the verdicts of claims; returns the exit code: 1 if a verdict is in `fail_on`, else 0.

    Args:
        rest: say what would decide the open ones too.

    Raises:
        SpecError: none of the experiments declares a claim.
    """
    from star.report import claims_markup
    from star.report.rest import rests_of, told_rest
    from star.report.table import agreements, build_table

    home = Home(path)
    experiments = [one.experiment if isinstance(one, Plan) else one for one in asked]
    ledger = existing_ledger(home, experiments[0].file)
    reader = reader_of(home)
    shown, verdicts = {}, []
    silent = [experiment.file for experiment in experiments if not experiment.spec.claims]
    if len(silent) == len(experiments):
        swept = any("its claims" in note for note in experiments[0].notes)
        why = (
            "its claims are about its own rows, and a sweep by --set leaves them out" if swept else "declares no claims"
        )
        raise SpecError(f"{silent[0]}: {why}; add `claims:` with an id, a text and predicates.")
    if silent:
        click.echo(f"without claims: {', '.join(silent)}", err=True)
    for one, experiment in zip(asked, experiments, strict=True):
        if not experiment.spec.claims:
            continue
        plan = one if isinstance(one, Plan) else make_plan(one, home, ledger)
        evidence = Evidence(plan, ledger, reader, rejudged(home, experiment))
        judgements = judge_all(evidence)
        verdicts += [judgement.verdict for judgement in judgements]
        rests = rests_of(judgements, evidence)
        agreement = agreements(build_table(evidence)) if experiment.spec.table else []
        found = claims_markup.data(judgements, agreement, evidence.rejudged)
        name = f"{experiment.name}@{experiment.profile}"
        if name in shown:
            raise SpecError(
                f"{experiment.file}: is called {name} as another one here is; give them one after the other."
            )
        shown[name] = found | ({"would_decide": [r.data() for r in rests]} if rest else {})
        if not as_json:
            lines = [
                f"{experiment.name} ({experiment.profile})",
                *(li for judgement in judgements for li in claims_markup.plain(judgement)),
                *filter(None, [claims_markup.rejudged_text(evidence.rejudged)]),
                *([f"would decide {told_rest(one)}" for one in rests] if rest else []),
            ]
            click.echo("\n".join([*lines, *filter(None, [claims_markup.agreement_text(agreement)])]))
    if as_json:
        json.dump(shown, sys.stdout, indent=1)
        click.echo()
    return int(any(verdict in fail_on for verdict in verdicts))
