"""Commands about results: `report`, `claims`, and `search`, which looks for better ones."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from star.cli.files import (
    describes_search,
    is_name,
    plans_of,
    read_experiment,
    read_search,
    refuse_changes,
    searches_of,
)
from star.cli.options import (
    EXECUTOR,
    FILE,
    HOME,
    JSON,
    OUT,
    PLAIN,
    REPLACE,
    SLOTS,
    Number,
    PathType,
    Whole,
    experiment_changes,
)
from star.errors import StarError


@click.command()
@click.argument("files", type=PathType(), nargs=-1, metavar="[FILE|NAME]...")
@experiment_changes
@OUT
@REPLACE
@click.option("--all", "everything", is_flag=True, help="All experiments in experiments/, and one index of them.")
@click.option(
    "--spread",
    type=click.Choice(["std", "interval"]),
    help="What ± is: a standard deviation, or half a 95% interval; the file's choice by default.",
)
@click.option(
    "--mlflow-ui",
    metavar="URL",
    help="Where cells of the HTML link to; the tracking server, or http://127.0.0.1:5000, by default.",
)
def report(
    files: tuple[Path, ...],
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
    out: Path,
    replace: bool,
    everything: bool,
    spread: str | None,
    mlflow_ui: str | None,
) -> None:
    """Write tables, figures and claims from tracked metrics: Markdown, LaTeX, HTML, CSV, PNG and PDF.

    A FILE is planned as the options say; a NAME, of an experiment or a search that ran, gives it as it was run.
    """
    from star.cli.report import ReportOptions, all_files, write_reports, write_studies

    files = tuple(dict.fromkeys(files))  # given twice is given once
    named = [file for file in files if is_name(file)]
    refuse_changes(named, sets, seeds, name)
    begun = searches_of(named, home, profile)
    plans = plans_of([one for one in named if one not in begun], home, profile, sets, seeds, name)
    others = [file for file in files if file not in named]
    chosen = [] if named and not others and not everything else all_files(others, everything)
    broken: list[str] = []
    if everything:  # a file that cannot be read does not keep the others from being reported
        chosen = [file for file in chosen if not _said(broken, file, profile, sets, seeds, name, home)]
    searches = [file for file in chosen if describes_search(file)]
    if searches and seeds is not None and not everything:
        raise StarError(f"--seeds {seeds}: {searches[0]} is a search, whose seeds are its own; leave the option out.")
    if searches and spread is not None and not everything:
        raise StarError(
            f"--spread {spread}: {searches[0]} is a search, whose ± is a standard deviation; leave the option out."
        )
    experiments = [read_experiment(file, profile, sets, seeds, name, home) for file in chosen if file not in searches]
    asked = [read_search(file, profile, sets, name) for file in searches]
    asked += [read_search(file, None, (), None, recorded=True) for found in begun.values() for file in found]
    studies = write_studies(asked, home, out, everything, mlflow_ui, replace)
    kept: list[str] = []
    if experiments or plans:
        options = ReportOptions(home, out, everything, mlflow_ui, spread, replace)
        kept = write_reports([*experiments, *plans], options, studies)
    if broken:
        raise StarError(f"{len(broken)} of the files could not be read, the others are reported: {' '.join(broken)}")
    if kept:
        raise StarError(" ".join(kept))


def _said(
    broken: list[str],
    file: Path,
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
) -> bool:
    """Whether a file cannot be read; what is wrong with it is appended to `broken`."""
    try:
        if describes_search(file):
            read_search(file, profile, sets, name)
        else:
            read_experiment(file, profile, sets, seeds, name, home)
    except StarError as error:
        broken.append(str(error))
        return True
    return False


@click.command()
@click.argument("files", type=PathType(), nargs=-1, required=True, metavar="FILE|NAME...")
@experiment_changes
@click.option(
    "--fail-on",
    multiple=True,
    type=click.Choice(["contradicted", "undecided"]),
    help="Exit with 1 when a claim has this verdict; may be given twice.",
)
@click.option("--plan", is_flag=True, help="Say what would decide each open claim: seeds of which rows, and hours.")
@JSON
def claims(
    files: tuple[Path, ...],
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
    fail_on: tuple[str, ...],
    plan: bool,
    as_json: bool,
) -> None:
    """Judge the claims from tracked metrics, of a FILE, or of an experiment as it was run, by its NAME: supported,
    contradicted or undecided."""
    files = tuple(dict.fromkeys(files))  # given twice is given once
    named = [file for file in files if is_name(file)]
    plans = plans_of(named, home, profile, sets, seeds, name)
    # searches are judged by their own reports
    found = [file for file in files if file not in named and not describes_search(file)]
    if not found and not plans:
        raise StarError(f"{files[0]}: a search declares no claims; its report says whether it beats the default.")
    experiments = [read_experiment(file, profile, sets, seeds, name, home) for file in found]
    from star.cli.report import show_claims

    sys.exit(show_claims([*experiments, *plans], home, fail_on, as_json, plan))


@click.command()
@FILE
@click.option(
    "--profile",
    help="Scale to run at: a name in profiles/ beside FILE or in experiments/profiles/, or a YAML file; by default that of "
    "FILE, or fashion.",
)
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change the base of every trial.")
@click.option("--name", help="Make it a study of its own, with this name.")
@HOME
@OUT
@click.option("--trials", type=Whole(1), help="How many trials in all, in place of the file's number.")
@click.option(
    "--budget-gpu-hours",
    "budget",
    type=Number(min=0),
    help="As many trials as these hours of GPUs (of CPU slots where there is no GPU) allow; --trials is then the most.",
)
@click.option("--parallel", type=Whole(1), help="Trials at a time; one for each GPU or slot by default.")
@click.option("--warm-start", "warm", is_flag=True, help="Begin with what earlier experiments found in the same space.")
@click.option("--promote", type=Whole(0), multiple=True, help="Take this trial, ended early, to its end.")
@EXECUTOR
@SLOTS
@PLAIN
def search(
    file: Path,
    profile: str | None,
    sets: tuple[str, ...],
    name: str | None,
    home: Path,
    out: Path,
    trials: int | None,
    budget: float | None,
    parallel: int | None,
    warm: bool,
    promote: tuple[int, ...],
    executor: str,
    slots: int | None,
    plain: bool,
) -> None:
    """Look for the best values of the fields that FILE names, with Optuna; then write the study's report."""
    found = read_search(file, profile, sets, name)
    from star.cli.search import SearchOptions, run_search

    plain = plain or not sys.stdout.isatty()
    options = SearchOptions(
        home, out, executor, slots, plain, budget=budget, trials=trials, parallel=parallel, warm=warm, promote=promote
    )
    sys.exit(run_search(found, options))
