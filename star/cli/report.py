"""`star-exp report` and `claims`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from star.cli.places import writable
from star.cli.store import existing_ledger, reader_of
from star.errors import DataError, NotFoundError, SpecError
from star.ledger.store import read_ledger
from star.report.claims import judge_all
from star.report.evidence import Evidence
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.spec.experiment import Experiment

if TYPE_CHECKING:
    from star.report.study import StudyReport
    from star.spec.points import Search

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


def write_reports(
    experiments: list[Experiment],
    path: Path,
    out: Path,
    index: bool = False,
    mlflow_ui: str | None = None,
    spread: str | None = None,
    studies: Sequence[StudyReport] = (),
) -> None:
    """Write reports from what is tracked; with an index of those that ever ran."""
    from star.report.index import write_index
    from star.report.write import build, write

    home = Home(path)
    ledger = existing_ledger(home, experiments[0].file)
    reader, reports, never = reader_of(home), [], []
    address = _address(mlflow_ui)
    names = [(experiment.name, experiment.profile) for experiment in experiments]
    names += [(study.search.name, study.search.profile) for study in studies]
    for experiment in experiments:
        if names.count((experiment.name, experiment.profile)) > 1:
            raise SpecError(
                f"{experiment.file}: experiment: {experiment.name!r} is the name of another of these files too, and both would be "
                f"written to {out / experiment.name}; give each its own."
            )
    broken = []
    for experiment in experiments:
        try:
            evidence = Evidence(make_plan(experiment, home, ledger), ledger, reader)
        except DataError as error:
            if not index:
                raise
            broken.append(f"{experiment.file}: {error}")
            continue
        if index and not evidence.tracked:
            never.append(experiment.name)
            continue
        _warn_of_lost(evidence)
        report = build(evidence, address, spread)
        folder = writable(out / experiment.name / experiment.profile / "report.md", "--out").parent
        reports.append((report, folder))
    for written in write(reports):
        click.echo(f"wrote {written}")
    if index:
        for written in write_index([report for report, _ in reports], out, studies):
            click.echo(f"wrote {written}")
        if never:
            click.echo(f"left out, because none of their runs is tracked here: {', '.join(never)}")
    if broken:
        raise DataError(f"{len(broken)} experiments could not be reported, the others are: {' '.join(broken)}")


def _warn_of_lost(evidence: Evidence) -> None:
    """Say which results exist and are not in MLflow, where the table looks for them; or that there are none at all."""
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
    searches: Sequence[Search], path: Path, out: Path, lenient: bool = False, mlflow_ui: str | None = None
) -> list[StudyReport]:
    """Write reports of searches, and return what they say.

    Args:
        lenient: leave out those that were never begun.
    """
    if not searches:
        return []
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
        for written in write_study(report, out):
            click.echo(f"wrote {written}")
        reports.append(report)
    return reports


def _address(mlflow_ui: str | None) -> str:
    """Where cells link to."""
    from star.report.write import MLFLOW_UI

    if mlflow_ui is not None and not mlflow_ui.startswith(("http://", "https://")):
        raise SpecError(f"--mlflow-ui {mlflow_ui}: give an address such as http://127.0.0.1:5000.")
    address = mlflow_ui or os.environ.get("MLFLOW_TRACKING_URI", "")
    return address if address.startswith("http") else MLFLOW_UI


def show_claims(experiments: list[Experiment], path: Path, fail_on: Sequence[str], as_json: bool) -> int:
    """Print verdicts; returns the exit code.

    Raises:
        SpecError: none of the experiments declares a claim.
    """
    from star.report import judged
    from star.report.table import agreements, build_table

    home = Home(path)
    ledger = existing_ledger(home, experiments[0].file)
    reader = reader_of(home)
    shown, verdicts = {}, []
    silent = [experiment.file for experiment in experiments if not experiment.spec.claims]
    if len(silent) == len(experiments):
        raise SpecError(f"{silent[0]}: declares no claims; add `claims:` with an id, a text and predicates.")
    if silent:
        click.echo(f"without claims: {', '.join(silent)}", err=True)
    for experiment in experiments:
        if not experiment.spec.claims:
            continue
        evidence = Evidence(make_plan(experiment, home, ledger), ledger, reader)
        judgements = judge_all(evidence)
        verdicts += [one.verdict for one in judgements]
        agreement = agreements(build_table(evidence)) if experiment.spec.table else []
        shown[f"{experiment.name}@{experiment.profile}"] = judged.data(judgements, agreement)
        if not as_json:
            lines = [
                f"{experiment.name} ({experiment.profile})",
                *(li for one in judgements for li in judged.plain(one)),
            ]
            click.echo("\n".join([*lines, *filter(None, [judged.agreement_text(agreement)])]))
    if as_json:
        json.dump(shown, sys.stdout, indent=1)
        click.echo()
    return int(any(verdict in fail_on for verdict in verdicts))
