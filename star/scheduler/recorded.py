"""An experiment as it was last run, from the record in its home: no file is read again, and nothing is planned."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from star.errors import SpecError
from star.rundir import Home, read_json
from star.scheduler.plan import Plan, PlannedJob, PlannedRun
from star.scheduler.records import record_path
from star.spec.experiment import Experiment, ExperimentSpec, Row, Variant
from star.spec.run import RunSpec


def recorded_plan(home: Home, name: str, profile: str) -> Plan | None:
    """The runs of an experiment with their keys, as the home's record has them.

    Returns:
        None where there is no record, or one that lacks the table's layout (a study's, or an older one).

    Raises:
        SpecError: it was written by a version of this program whose fields were others.
    """
    path = record_path(home, name, profile)
    found = read_json(path)
    if not found or not found.get("layout"):
        return None
    try:
        return _plan(found, profile)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"{path}: was written by another version of star ({where}: {first['msg']}); `star-exp run` of its file writes it anew."
        ) from None


def _plan(found: dict[str, Any], profile: str) -> Plan:
    layout = found["layout"]
    runs = [_run(row) for row in found["rows"]]
    by_label: dict[str, list[RunSpec]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(run.spec)
    rows = [Row.model_validate(row) for row in layout["rows"]]
    variants = tuple(Variant(row.label, row, tuple(by_label.get(row.label, ()))) for row in rows)
    spec = ExperimentSpec.model_validate(layout["spec"])
    jobs = {key: PlannedJob(key, stage, run, {}) for run in runs for stage, key in run.stages.items()}
    return Plan(Experiment(layout["file"], spec, profile, variants), runs, jobs, [])


def _run(row: dict[str, Any]) -> PlannedRun:
    run = row["run"]
    return PlannedRun(row["row"], run["seed"], RunSpec.model_validate(run["spec"]), run["key"], run["stages"], {})
