"""Copies metrics from the jobs' folders to the tracker (MLflow), in a thread of its own: training never waits for it.

For each run and job the ledger keeps how much is delivered. An entry that a kill causes to be delivered twice has the
same time, step and value, so the tracker keeps it once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from star.errors import DataError, StarError
from star.ledger.states import CANCELLED, FAILED, LOST, RUNNING, RunRow
from star.ledger.store import Ledger
from star.metric_log import read_metrics
from star.rundir import Home, JobDir, read_json
from star.scheduler import own
from star.scheduler.declared import stage_of
from star.scheduler.plan import Plan
from star.scheduler.registration import reached, run_row
from star.spec.builtin import needed
from star.spec.scripts import MOST_STEPS, mlflow_takes
from star.tracking.reader import Reader
from star.tracking.writer import OF_JOB, USED_BY, Tracker

log = logging.getLogger(__name__)
PATIENCE = 60.0
"""Seconds to wait, when the last job has ended, for a tracker that was reachable before and is away."""
EVERY = 2.0
"""Seconds between deliveries."""
LOG_KEPT = 2**20
"""Bytes from the end of a job's log that are attached to its run."""
STATUS = {FAILED: "FAILED", LOST: "FAILED", CANCELLED: "KILLED", RUNNING: "RUNNING"}
"""Job state -> MLflow status. The first state that any of a run's jobs has counts; without any, it is SCHEDULED."""
NAME = 120
"""Characters of a row's label in the name of its MLflow run; MLflow allows 250 in all."""
OWN = "own"
"""Stands for a job's key in the ledger, which keeps under it how many of a run's user-logged numbers are delivered."""
LINES = 2000
"""Most lines of metrics in one delivery of one job."""


@dataclass(frozen=True)
class Shipment:
    """An experiment's runs that are to be tracked."""

    experiment: str
    profile: str
    targets: tuple[str, ...]
    runs: tuple[tuple[str, RunRow], ...]
    """(row's label, run)."""
    study: str | None = None
    """The study whose trials the rows are; None where there is none."""

    @classmethod
    def of(cls, plan: Plan) -> Shipment:
        """Make a shipment of all runs of a plan."""
        runs = tuple((run.label, run_row(run)) for run in plan.runs)
        return cls(plan.experiment.name, plan.experiment.profile, reached(plan.experiment), runs)

    def tags(self, label: str, run: RunRow, others: Mapping[str, str]) -> dict[str, str]:
        """The tags that a run gets, beside the `others` that it has."""
        users = {name.removeprefix(USED_BY) for name in others if name.startswith(USED_BY)}
        tags = {
            "star.experiments": ", ".join(sorted({self.experiment, *users})),
            f"{USED_BY}{self.experiment}": label,
            "star.profile": self.profile,
            **{f"star.key.{stage}": key for stage, key in run.stages.items()},
        }
        if self.study is not None:  # of several studies that share a run, the newest
            tags |= {"star.study": self.study, "star.trial": label.removeprefix("trial ").split(",")[0]}
        return tags

    def is_delivered(self, home: Home, ledger: Ledger, reader: Reader) -> bool:
        """Whether the tracker holds these runs, finished and tagged, with everything that their jobs have written.

        Raises:
            StarError: the tracker cannot be read, or numbers of a user's own are damaged.
        """
        keys, stages = [run.key for _, run in self.runs], needed(self.targets)
        bound, held = ledger.runs.tracking_ids(keys), ledger.runs.tracked(keys)
        found = reader.runs(bound)
        for label, run in self.runs:
            there, parts = found.get(run.key), held.get(run.key, {})
            if there is None or there.id != bound[run.key] or there.status != "FINISHED":
                return False
            jobs = [run.stages[stage] for stage in stages if stage in run.stages]
            if not all(parts.get(key, (0, False))[1] for key in jobs):
                return False
            if parts.get(OWN, (0, False))[0] != len(own.of_run(home, run.key, run.stages)):
                return False
            if not self.tags(label, run, there.tags).items() <= there.tags.items():
                return False
        return True


class MetricsSync:
    """Delivers one experiment's metrics and results to the tracker.

    Args:
        connect: makes the tracker; called in the thread, because it is slow, and again after a failure.
    """

    def __init__(self, home: Home, ledger: Ledger, shipment: Shipment, connect: Callable[[], Tracker]) -> None:
        self.home, self.ledger, self.shipment, self.connect = home, ledger, shipment, connect
        self.stages = needed(shipment.targets)
        self.tracker: Tracker | None = None
        self.error: Exception | None = None
        """The error of the last delivery; the next one carries what this one could not."""
        self._met = False
        """Whether the tracker was ever reachable."""
        self._opened: dict[str, str] = {}
        self._status: dict[str, str] = {}
        self._after: dict[tuple[str, str, int], float] = {}
        """(MLflow run, stage, attempt) -> when its numbers may begin: see `_earlier`."""
        self._used: dict[tuple[str, str], int] = {}
        """(run, job) -> how much of its usage is delivered. Not saved: an entry delivered twice is kept once."""
        self._over: set[str] = set()
        """Runs that are delivered completely, with their status."""
        self._told: set[str] = set()
        self._more = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics-sync", daemon=True)

    def add(self, shipment: Shipment) -> None:
        """Add runs of the same experiment."""
        self.shipment = replace(self.shipment, runs=(*self.shipment.runs, *shipment.runs))

    def start(self) -> None:
        """Start the thread that delivers."""
        # MLflow, imported by the thread, imports this; while it is half imported, SQL statements of other threads fail
        import sqlalchemy.orm  # noqa: F401

        self._thread.start()

    def finish(self) -> Exception | None:
        """Deliver what is left, if it was started; returns the error that prevented it, if any."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        return self.error

    def _work(self) -> None:
        deadline: float | None = None
        while True:
            last = self._end.wait(EVERY)
            if last and deadline is None:
                deadline = time.monotonic() + PATIENCE
            try:
                while self.deliver():
                    pass
                self.error = None
            except Exception as error:  # a tracker that is away must not end the training; the next round tries again
                log.debug("tracker: %s", error)
                self.error, self.tracker = error, None
                self._opened.clear()  # what comes back may be another database
                self._over.clear()
                self._status.clear()
                self._used.clear()
            if deadline is not None:
                away = self.error is not None and self._met and not isinstance(self.error, StarError)
                if not away or time.monotonic() > deadline:
                    return
                time.sleep(EVERY)  # it was there before: a restart takes a moment

    def deliver(self) -> bool:
        """Deliver everything that is new, at most LINES lines of each job; returns whether more is left."""
        self._more = False
        if self.tracker is None:
            self.tracker = self.connect()
            self._met = True
        open_runs = [(label, run) for label, run in self.shipment.runs if run.key not in self._over]
        bound = self.ledger.runs.tracking_ids([run.key for _, run in open_runs])
        known = [(label, run) for label, run in open_runs if run.key in bound]
        for label, run in known:
            if run.key not in self._opened:
                self._open_run(self.tracker, label, run, bound[run.key])
        held = self.ledger.runs.tracked([run.key for _, run in known])
        states = {job.key: job.state for job in self.ledger.jobs.of_state(*STATUS)}
        for _, run in known:
            self._deliver_run(self.tracker, run, held.get(run.key, {}), states)
        return self._more

    def _deliver_run(
        self, tracker: Tracker, run: RunRow, held: dict[str, tuple[int, bool]], states: dict[str, str]
    ) -> None:
        tracking_id = self._opened[run.key]
        stages = {stage: run.stages[stage] for stage in self.stages if stage in run.stages}
        complete = True
        self._deliver_own(tracker, tracking_id, run, held.get(OWN, (0, False))[0])
        for stage, key in stages.items():
            offset, finished = held.get(key, (0, False))
            if not finished:
                complete &= self._deliver_job(tracker, tracking_id, run, stage, key, offset)
        found = {states[key] for key in stages.values() if key in states}
        status = (
            "FINISHED" if complete else next((name for state, name in STATUS.items() if state in found), "SCHEDULED")
        )
        if self._status.get(run.key) != status:
            tracker.set_status(tracking_id, status)
            self._status[run.key] = status
        if complete:
            self._over.add(run.key)

    def _open_run(self, tracker: Tracker, label: str, run: RunRow, bound: str | None) -> None:
        """Find or create the tracker's run and set its tags; a run that it has lost is delivered from the start."""
        found = tracker.find(run.key, bound)
        mine = self.shipment.experiment
        tags = self.shipment.tags(label, run, {} if found is None else found.data.tags)
        if found is None:
            note = {"mlflow.note.content": describe(mine, self.shipment.profile, label, run)}
            tracking_id = tracker.create(run.key, f"{mine}: {label[:NAME]}, seed {run.seed}", run.spec, tags | note)
        else:
            tracking_id = str(found.info.run_id)
            tracker.complete(tracking_id, run.spec, found.data.params)
            tracker.tag(tracking_id, tags)
        if tracking_id != bound and not self.ledger.runs.set_tracking_id(run.key, bound, tracking_id):
            # another scheduler was first: the run that it bound counts, which may be the one made here
            winner = self.ledger.runs.tracking_ids([run.key])[run.key] or tracking_id
            if found is None and winner != tracking_id:
                tracker.discard(tracking_id)
            tracking_id = winner
        self._opened[run.key] = tracking_id

    def _deliver_job(self, tracker: Tracker, tracking_id: str, run: RunRow, stage: str, key: str, offset: int) -> bool:
        """Deliver what is new of one job; returns whether all of it, with its result, is delivered now."""
        folder = self.home.job(stage, key)
        result = folder.read_result()  # before the metrics: what is written later is delivered next time
        after = self._earlier(tracker, tracking_id, folder, stage, result)
        entries, end = [], offset
        for position, line in read_metrics(folder.metrics, offset):
            # an older version recorded names and steps that MLflow refuses
            kept = {f"{stage}/{name}": value for name, value in line["metrics"].items() if mlflow_takes(name)}
            if kept and 0 <= line["step"] < MOST_STEPS:
                entries.append((max(line["time"], after), line["step"], kept))
            end = position
            if len(entries) >= LINES:
                break
        tracker.log(tracking_id, entries)
        self._deliver_usage(tracker, tracking_id, run.key, stage, key)
        self._more |= len(entries) >= LINES
        caught_up = result is not None and len(entries) < LINES
        if result is not None and caught_up:
            self._deliver_result(tracker, tracking_id, folder, stage, result, after)
        if entries or caught_up:
            self.ledger.runs.set_tracked(run.key, key, end, caught_up)
        return caught_up

    def _earlier(
        self, tracker: Tracker, tracking_id: str, folder: JobDir, stage: str, result: dict[str, object] | None
    ) -> float:
        """A moment after what an earlier result of this job was logged at; 0 where there was none.

        MLflow takes the newest of several entries of a step, and a machine that computes a job again may have a clock that is behind.
        """
        attempt = int(str((result or read_json(folder.job) or {}).get("attempt", 0)))
        if attempt < 2:
            return 0.0
        if (tracking_id, stage, attempt) not in self._after or result is not None:
            own = None if result is None else result["seconds"]
            earlier = [when for when, value in tracker.history(tracking_id, f"{stage}/seconds") if value != own]
            self._after[tracking_id, stage, attempt] = (
                max(earlier) + 0.0015 if earlier else 0.0
            )  # whole milliseconds are kept
        return self._after[tracking_id, stage, attempt]

    def _deliver_result(
        self,
        tracker: Tracker,
        tracking_id: str,
        folder: JobDir,
        stage: str,
        result: dict[str, object],
        after: float,
    ) -> None:
        metrics, provenance = result["metrics"], result["provenance"]
        assert isinstance(metrics, dict) and isinstance(provenance, dict)
        hours = hours_of(float(str(result["seconds"])), provenance)
        values = {
            f"{stage}/{name}": value for name, value in {**metrics, **hours, "seconds": result["seconds"]}.items()
        }
        tracker.log(tracking_id, [(max(float(str(result["finished"])), after), 0, values)])
        machine = provenance.get("device") if provenance.get("gpus") else provenance.get("cpu")
        tracker.tag(
            tracking_id,
            {f"star.code.{stage}": str(provenance.get("code")), f"star.machine.{stage}": str(machine or "")},
        )
        tracker.add_text(tracking_id, json.dumps(provenance, indent=1), f"{stage}/provenance.json")
        if folder.log.is_file():
            tracker.add_text(tracking_id, last_part(folder.log), f"{stage}/log.txt")
        declared = stage_of(stage, folder)
        for name in declared.files if declared else ():
            if (folder.out / name).exists():
                tracker.add_file(tracking_id, folder.out / name, stage)

    def _deliver_own(self, tracker: Tracker, tracking_id: str, run: RunRow, known: int) -> None:
        """Deliver user-logged numbers, all of them when there are new ones: MLflow keeps a repeated entry once."""
        try:
            entries = own.of_run(self.home, run.key, run.stages)
            if len(entries) == known:
                return
            tracker.log(tracking_id, [(when, step, {name: value}) for when, step, name, value in entries])
            jobs = own.of_jobs(self.home, run.key, run.stages)
            tracker.tag(tracking_id, {f"{OF_JOB}{name}": " ".join(job or ()) for name, job in jobs.items()})
        except Exception as error:  # damaged or refused numbers hold nothing else up
            if not isinstance(error, DataError) and getattr(error, "error_code", None) != "INVALID_PARAMETER_VALUE":
                raise
            text = str(error).splitlines()[0]
            if text not in self._told:
                self._told.add(text)
                log.warning("numbers of one's own of run %s are not carried to MLflow: %s", run.key, text)
            return
        self.ledger.runs.set_tracked(run.key, OWN, len(entries), True)

    def _deliver_usage(self, tracker: Tracker, tracking_id: str, run: str, stage: str, key: str) -> None:
        """Deliver a job's use of its machine, under the names that MLflow's page of system metrics looks for."""
        entries, end = [], self._used.get((run, key), 0)
        with suppress(DataError):  # usage is no result: a damaged line only ends its delivery
            for position, line in read_metrics(self.home.job(stage, key).usage, end):
                values = {f"system/{stage}/{name}": value for name, value in line["metrics"].items()}
                entries.append((line["time"], line["step"], values))
                end = position
        if entries:
            tracker.log(tracking_id, entries)
            self._used[run, key] = end


def hours_of(seconds: float, provenance: Mapping[str, Any]) -> dict[str, float]:
    """Return a job's cost over all its processes: `gpu_hours`, or without GPUs `cpu_hours` of its threads."""
    processes = int(provenance.get("processes") or 1)
    if provenance.get("gpus"):
        return {"gpu_hours": seconds * processes / 3600}
    return {"cpu_hours": seconds * processes * int(provenance.get("threads") or 1) / 3600}


def describe(experiment: str, profile: str, label: str, run: RunRow) -> str:
    """Describe a run in Markdown, for its page in MLflow."""
    lines = [f"**{label}**, seed {run.seed}, of {experiment} at profile {profile}.", "", "| stage | job |", "|---|---|"]
    lines += [f"| {stage} | `{key}` |" for stage, key in run.stages.items()]
    shown = [*lines, "", f"`star-exp show {run.key}` tells the rest; `spec.yaml` is the whole configuration."]
    return "\n".join(shown)


def last_part(log: Path) -> str:
    """Return the text of a log; of one longer than LOG_KEPT bytes only its end, and how much is left out."""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_KEPT))
        text = file.read().decode("utf-8", "replace")
    return text if size <= LOG_KEPT else f"... {size - LOG_KEPT} bytes before this are left out\n{text}"
