"""Rebuild the ledger, and what MLflow holds, from the folders, which are the source of truth."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from star.ledger.states import DONE, FOUND, GONE, QUEUED, NewJob, RunRow
from star.ledger.store import Ledger
from star.rundir import Home, read_json
from star.scheduler.metrics_sync import MetricsSync, Shipment
from star.scheduler.own import put_back
from star.tracking.writer import Tracker

log = logging.getLogger(__name__)


@dataclass
class Indexed:
    """How much `reindex` found and changed, and the names of job folders whose job.json is damaged."""

    jobs: int = 0
    new_jobs: int = 0
    corrected: int = 0
    experiments: int = 0
    unreadable: tuple[str, ...] = ()


def reindex(home: Home, ledger: Ledger) -> Indexed:
    """Update the ledger to what the folders say; its history, which they do not hold, stays."""
    put_back(home)
    found, unreadable = {}, []
    for name in filter(partial(_is_job, home), sorted(home.job_folders())):
        stage, _, key = name.rpartition("-")
        described = read_json(home.job(stage, key).job)
        if described is None and home.job(stage, key).job.exists():
            unreadable.append(name)
        else:
            found[key] = (stage, described or {})
    known = ledger.jobs.places(found)
    ledger.jobs.add(
        [
            NewJob(key, stage, job.get("label", key), job.get("flops", 0.0), job.get("content"), job.get("attempt", 0))
            for key, (stage, job) in found.items()
        ]
    )
    outcome = Indexed(len(found), len(found) - len(known), unreadable=tuple(unreadable))
    for key, job in ledger.jobs.of(found).items():
        has_result = home.job(job.stage, key).read_result() is not None
        if has_result and job.state != DONE:
            outcome.corrected += bool(ledger.jobs.move(job, DONE, FOUND, "result found in its folder"))
        elif not has_result and job.state == DONE:
            outcome.corrected += bool(ledger.jobs.move(job, QUEUED, GONE, "its result has gone"))
    for key, place in ledger.jobs.places().items():
        if place.state == DONE and key not in found:
            lost = ledger.jobs.of([key])[key]
            if home.job(lost.stage, key).read_result() is None:
                outcome.corrected += bool(ledger.jobs.move(lost, QUEUED, GONE, "its folder has gone"))
    for shipment in shipments(home):
        ledger.runs.add([run for _, run in shipment.runs])
        if not ledger.runs.experiments(shipment.experiment, shipment.profile):
            rows = [(label, run.seed, run.key) for label, run in shipment.runs]
            ledger.runs.set_experiment(shipment.experiment, shipment.profile, shipment.targets, rows)
        outcome.experiments += 1
    return outcome


def _is_job(home: Home, name: str) -> bool:
    """Whether a folder is a job's, and holds more than the user-logged numbers that `rerun` leaves there."""
    stage, _, key = name.rpartition("-")
    if not re.fullmatch(r"[0-9a-f]{16}", key) or name.startswith("."):
        return False
    folder = home.job(stage, key)
    return not folder.own.exists() or folder.job.exists() or folder.result.exists()


def shipments(home: Home) -> Iterator[Shipment]:
    """Yield all experiments that this home has a record of."""
    for path in sorted(home.experiments.glob("*.json")) if home.experiments.exists() else ():
        try:
            yield read_shipment(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            log.warning(
                "%s is damaged (%s): `star-exp run` of its file writes it again; the others are taken", path, error
            )


def read_shipment(record: dict[str, Any]) -> Shipment:
    """Make a shipment of an experiment from its record."""
    runs = tuple((row["row"], RunRow(**row["run"])) for row in record["rows"])
    return Shipment(record["experiment"], record["profile"], tuple(record["targets"]), runs, record.get("study"))


def deliver(
    home: Home, ledger: Ledger, connect: Callable[[], Tracker], again: bool = False, jobs: Collection[str] | None = None
) -> int:
    """Deliver to MLflow what it lacks of all experiments; returns the number of experiments.

    Args:
        again: deliver everything, as when MLflow's database is new. MLflow keeps a repeated entry once.
        jobs: deliver only runs that need one of these, whose states have changed while no delivery ran.
    """
    if again:
        ledger.runs.forget_tracked()
    count = 0
    tracker: list[Tracker] = []

    def once() -> Tracker:
        if not tracker:
            tracker.append(connect())
        return tracker[0]

    for shipment in shipments(home):
        if jobs is not None:
            runs = tuple((label, run) for label, run in shipment.runs if set(run.stages.values()) & set(jobs))
            shipment = replace(shipment, runs=runs)
        if not shipment.runs:
            continue
        metrics_sync = MetricsSync(home, ledger, shipment, once)
        while metrics_sync.deliver():
            pass
        count += 1
    return count


def end_left_out(home: Home, ledger: Ledger, connect: Callable[[], Tracker], jobs: Collection[str]) -> None:
    """Mark as killed in MLflow the runs that need one of these cancelled jobs and are in no experiment any more."""
    shipped = {run.key for shipment in shipments(home) for _, run in shipment.runs}
    stages = ledger.runs.stages()
    left = [run for run, keys in stages.items() if run not in shipped and set(keys.values()) & set(jobs)]
    bound = [tracking_id for tracking_id in ledger.runs.tracking_ids(left).values() if tracking_id]
    if bound:
        tracker = connect()
        for tracking_id in bound:
            tracker.set_status(tracking_id, "KILLED")
