"""Restore an experiment as it was last run, from its record in the home: no input is read, and nothing is planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from star.errors import NotFoundError, SpecError
from star.rundir import Home, read_json
from star.scheduler.plan import Plan, PlannedJob, PlannedRun
from star.scheduler.records import record_path, written_folder
from star.spec.experiment import Experiment, ExperimentSpec, Row
from star.spec.points import EARLY
from star.spec.rows import variant_from
from star.spec.run_base import Run
from star.spec.run_class import parse_run
from star.words import shown


def recorded_plan(home: Home, name: str, profile: str) -> Plan | None:
    """Return an experiment's runs with their keys, from the record in the home.

    Returns:
        None where there is no record, or one that lacks the table's layout (a study's, or an older one).

    Raises:
        SpecError: a version of this program with other fields wrote the record; the message names the code that reads
            it, if that is here.
    """
    path = record_path(home, name, profile)
    found = read_json(path)
    if not found or not found.get("layout"):
        return None
    try:
        return _plan(home, found, profile)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"{path}: was written by another version of star ({where}: {first['msg']}); {_remedy(home, found, name)}"
        ) from None
    except (KeyError, TypeError, AttributeError):
        raise SpecError(
            f"{shown(path)}: is damaged; `star-exp run` of the experiment's file writes it again."
        ) from None


def names_of(home: Home) -> dict[tuple[str, str], bool]:
    """Return (name, profile) of everything that was ever run in this home -> whether it belongs to a search."""
    known = {}
    for path in sorted(home.experiments.glob("*.json")) if home.experiments.exists() else ():
        found = read_json(path) or {}
        if "experiment" in found:
            known[str(found["experiment"]), str(found["profile"])] = found.get("study") is not None
    return known


def _at_profile(name: str, profile: str | None) -> tuple[str, str | None]:
    """Name and profile of an experiment that may be named NAME@PROFILE."""
    name, _, told = name.partition("@")
    if told and profile not in (None, told):
        raise SpecError(f"--profile {profile}: {name}@{told} names another one; keep one of them.")
    return name, profile or told or None


def searches_as_run(home: Home, name: str, profile: str | None = None) -> list[Path]:
    """Return the files of a search as it was last run, one for each profile; none where the name is no search's.

    Raises:
        SpecError: an older version ran it and kept no file, or the name is that of a search's early comparisons.
    """
    name, profile = _at_profile(name, profile)
    found = [
        (written_folder(home, name, one) / f"{name}.yaml")
        for (other, one), study in names_of(home).items()
        if study and other == name and profile in (None, one)
    ]
    if found and name.endswith(EARLY):
        raise SpecError(
            f"{name}: holds the comparisons of a search before the end; `star-exp report {name.removesuffix(EARLY)}` has them."
        )
    if not all(path.is_file() for path in found):
        raise SpecError(
            f"{name}: is a search that an older version began, which kept no copy of its file; give the file, such as "
            f"`star-exp report experiments/{name}.yaml`."
        )
    return found


def as_run(home: Home, name: str, profile: str | None = None) -> list[Plan]:
    """Return an experiment as it was last run, one plan for each profile, in which each job is marked as done or not.

    Raises:
        NotFoundError: no experiment of that name, or none at that profile, was run here.
        SpecError: it is a search's name, or its record cannot be read or lacks the table's layout.
    """
    name, profile = _at_profile(name, profile)
    known = names_of(home)
    if (name, profile) not in known and all(one != name for one, _ in known):
        damaged = next((path for path in home.experiments.glob("*.json") if path.stem.partition("@")[0] == name), None)
        if damaged is not None:
            raise SpecError(f"{shown(damaged)}: is damaged; `star-exp run` of the experiment's file writes it again.")
        names = [sorted({one for (one, _), study in known.items() if study is kind}) for kind in (False, True)]
        legal = "; searches: ".join(", ".join(one) or "none" for one in (names if names[1] else names[:1]))
        raise NotFoundError(
            f"{name}: no experiment of that name was run in {home.path}, which has: {legal}. "
            f"To run one, name its file: `star-exp run experiments/{name}.yaml`."
        )
    profiles = [one for other, one in known if other == name and profile in (None, one)]
    if not profiles:
        there = ", ".join(one for other, one in known if other == name)
        raise NotFoundError(f"--profile {profile}: {name} was not run at it in {home.path}; it was at: {there}.")
    plans = []
    for one in profiles:
        if known[name, one]:
            raise SpecError(
                f"{name}: is a search, which has no claims and is not exported; `star-exp report {name}` reports it."
            )
        plan = recorded_plan(home, name, one)
        if plan is None:
            raise SpecError(
                f"{record_path(home, name, one)}: does not say how the table is laid out; `star-exp run` of its file writes it again."
            )
        wanted = plan.experiment.needed
        for job in plan.jobs.values():
            done = home.job(job.stage, job.key).read_result() is not None
            job.action = "reuse" if done else "run" if job.stage in wanted else "not needed"
        plans.append(plan)
    return plans


def _remedy(home: Home, found: dict[str, Any], name: str) -> str:
    """Say what to do about a record of another version: the code that made its jobs may be in the home."""
    keys = [(stage, key) for row in found.get("rows", ()) for stage, key in row["run"]["stages"].items()]
    for stage, key in keys:
        snapshot = (read_json(home.job(stage, key).job) or {}).get("snapshot")
        code = home.code / Path(str(snapshot)).name
        if snapshot and (code / "star").is_dir():
            return f"the code that ran it is here: `PYTHONPATH={code} python -m star.cli report {name} --home {home.path}` reads it."
    return "`star-exp run` of its file writes it again."


def _plan(home: Home, found: dict[str, Any], profile: str) -> Plan:
    layout = found["layout"]
    runs = [_run(row) for row in found["rows"]]
    by_label: dict[str, list[Run]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(run.spec)
    rows = [Row.model_validate(row) for row in layout["rows"]]
    spec = ExperimentSpec.model_validate(layout["spec"])
    variants = tuple(variant_from(row, tuple(by_label.get(row.label, ())), spec) for row in rows)
    jobs: dict[str, PlannedJob] = {}
    for run in runs:
        for stage, key in run.stages.items():
            jobs.setdefault(key, PlannedJob(key, stage, run, {})).runs.append(run.name)
    inputs = [home.manifests / name for name in found.get("inputs", ()) if (home.manifests / name).exists()]
    copy = written_folder(home, spec.experiment, profile) / f"{spec.experiment}.yaml"
    # the file may have been on another machine
    file = layout["file"] if Path(layout["file"]).exists() or not copy.exists() else str(copy)
    experiment = Experiment(file, spec, profile, variants, seeding="auto" if found.get("auto") else "file")
    return replace(Plan(experiment, runs, jobs, []), inputs=inputs)


def _run(row: dict[str, Any]) -> PlannedRun:
    run = row["run"]
    return PlannedRun(
        row["row"],
        run["seed"],
        parse_run(run["spec"]),
        run["key"],
        run["stages"],
        row.get("sources") or {},
    )
