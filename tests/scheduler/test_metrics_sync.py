"""What reaches MLflow: everything once, whatever was carried before."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from star.ledger.states import CANCELLED, FAILED, LOST, QUEUED, Allocation, NewJob
from star.ledger.store import Ledger, open_ledger
from star.metric_log import MetricLog
from star.report.evidence import Evidence
from star.rundir import Home, write_json
from star.scheduler.metrics_sync import MetricsSync, Shipment
from star.scheduler.plan import Plan, make_plan
from star.scheduler.registration import run_row
from star.spec.load import load
from star.tracking.reader import open_reader
from star.tracking.writer import KEY_TAG, Tracker
from tests.helpers import TINY

METRICS = {"score": "efficientnet-lite0/frechet_distance"}
PROVENANCE = {"code": "0.1.0+abc", "host": "here"}


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Home, Ledger, Plan]:
    """A home in which one of two trainings is done and the other half way."""
    home = Home(tmp_path)
    ledger = open_ledger(home)
    plan = make_plan(load(TINY), home, ledger)
    ledger.runs.add([run_row(run) for run in plan.runs])
    ledger.jobs.add([NewJob(job.key, job.stage, job.label, 0) for job in plan.jobs.values()])
    for i, run in enumerate(plan.runs):
        folder = home.job("train", run.stages["train"])
        folder.out.mkdir(parents=True)
        log = MetricLog(folder.metrics)
        for step in range(1, 5):
            log.record(step, {"loss": 4.0 - step - i / 10})
        log.close()
        if i == 0:
            finish(home, plan, 0)
    return home, ledger, plan


def finish(home: Home, plan: Plan, i: int, *others: str) -> None:
    for stage in ("train", *others):
        folder = home.job(stage, plan.runs[i].stages[stage])
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(
            folder.result,
            {
                "metrics": {METRICS.get(stage, "val_nll"): 2.5},
                "seconds": 1.0,
                "finished": 5.0,
                "provenance": PROVENANCE,
            },
        )


def finish_all(home: Home, plan: Plan) -> None:
    for i, run in enumerate(plan.runs):
        finish(home, plan, i, *run.stages)


def attached(tracker: Tracker, run: str, path: str, folder: Path) -> str:
    """The content of a file."""
    return Path(tracker.client.download_artifacts(run, path, str(folder))).read_text()


def history(tracker: Tracker, run: str, metric: str) -> list[tuple[int, float]]:
    """(step, value), each once, in order."""
    return sorted({(point.step, point.value) for point in tracker.client.get_metric_history(run, metric)})


def test_everything_once(planned: tuple[Home, Ledger, Plan], tmp_path: Path) -> None:
    home, ledger, plan = planned
    uri = f"sqlite:///{home.mlflow}"

    def deliver() -> Tracker:
        courier = MetricsSync(home, ledger, Shipment.of(plan), lambda: Tracker(uri, home.artifacts))
        courier.deliver()
        assert courier.tracker is not None
        return courier.tracker

    tracker = deliver()
    found = [tracker.find(run.key, None) for run in plan.runs]
    assert [run.data.metrics.get("train/val_nll") for run in found if run] == [2.5, None]
    first, second = (str(run.info.run_id) for run in found if run)
    assert history(tracker, first, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.0)]
    assert history(tracker, second, "train/loss") == [(1, 2.9), (2, 1.9), (3, 0.9), (4, pytest.approx(-0.1))]
    assert found[0] and found[0].data.params["selfguided.mask_ratio"] == "0.25"
    assert found[0].data.tags["star.key.train"] == plan.runs[0].stages["train"]
    assert found[0].data.tags["star.code.train"] == PROVENANCE["code"]
    assert json.loads(attached(tracker, first, "train/provenance.json", tmp_path)) == PROVENANCE

    # a scheduler killed between MLflow and the ledger carries the same again: the same time, step and value are one entry
    ledger.runs.set_tracked(plan.runs[0].key, plan.runs[0].stages["train"], 0, False)
    finish(home, plan, 1)
    deliver()
    assert len(tracker.client.get_metric_history(first, "train/loss")) == 4
    assert len(tracker.client.get_metric_history(first, "train/val_nll")) == 1
    assert history(tracker, second, "train/val_nll") == [(0, 2.5)]
    assert len(tracker.client.search_runs([tracker.experiment])) == 2

    # MLflow's database is lost: it is filled again from the folders
    uri = f"sqlite:///{tmp_path / 'other.sqlite'}"
    other = deliver()
    again = other.find(plan.runs[0].key, None)
    assert again and history(other, str(again.info.run_id), "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.0)]


def test_what_was_made_anew_counts_whatever_the_clocks_say(planned: tuple[Home, Ledger, Plan]) -> None:
    """MLflow takes the newest entry of a step; the machine that `rerun` went to is a minute behind."""
    home, ledger, plan = planned
    run, key = plan.runs[0].key, plan.runs[0].stages["train"]

    def deliver() -> tuple[Tracker, str]:
        courier = MetricsSync(
            home, ledger, Shipment.of(plan), lambda: Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
        )
        courier.deliver()
        assert courier.tracker is not None
        found = courier.tracker.find(run, None)
        assert found is not None
        return courier.tracker, str(found.info.run_id)

    folder = home.job("train", key)
    write_json(folder.result, folder.read_result() | {"finished": time.time()})  # type: ignore[operator]
    deliver()
    again = [{"time": time.time() - 60, "step": step, "metrics": {"loss": step / 10}} for step in (1, 2)]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in again))
    old = folder.read_result() or {}
    write_json(
        folder.result, old | {"metrics": {"val_nll": 1.5}, "seconds": 2.0, "finished": time.time() - 60, "attempt": 2}
    )
    for _ in range(2):  # also where the same is delivered once more
        ledger.runs.forget_tracked([key])
        tracker, found = deliver()
        assert len(tracker.client.get_metric_history(found, "train/val_nll")) == 2
    reader = open_reader(f"sqlite:///{home.mlflow}")
    tracked = reader.runs({run: None})[run]
    assert tracked.metrics["train/val_nll"] == 1.5
    curve = reader.curves([found], "train/loss")[found]
    assert (curve[1], curve[2]) == (0.1, 0.2)


@pytest.mark.parametrize("finds", [True, False], ids=["finds the new run", "makes one too"])
def test_two_couriers_open_a_run_at_once(planned: tuple[Home, Ledger, Plan], finds: bool) -> None:
    """One makes an MLflow run; before it can bind it, the other comes: one run is left, and both deliver to it."""
    home, ledger, plan = planned
    tracker = Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
    couriers = [MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker) for _ in range(2)]
    create, find, others = tracker.create, tracker.find, iter([couriers[1]])

    def create_slowly(run_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        made = create(run_key, name, params, tags)
        if other := next(others, None):
            if not finds:
                tracker.find = lambda run_key, bound: None  # type: ignore[method-assign, assignment]
            other.deliver()
            tracker.find = find  # type: ignore[method-assign]
        return made

    tracker.create = create_slowly  # type: ignore[method-assign]
    couriers[0].deliver()
    runs = {run.key: row.tracking_id for run in plan.runs for row in [ledger.runs.of([run.key])[run.key]]}
    assert {run.info.run_id for run in tracker.client.search_runs([tracker.experiment])} == set(runs.values())
    finish_all(home, plan)
    for courier in couriers:
        courier.deliver()
    assert {run.info.status for run in tracker.client.search_runs([tracker.experiment])} == {"FINISHED"}
    assert history(tracker, str(runs[plan.runs[1].key]), "train/val_nll") == [(0, 2.5)]


def test_a_kill_before_a_surplus_run_is_discarded(planned: tuple[Home, Ledger, Plan]) -> None:
    """The older of two MLflow runs is the surplus one: the bound one stays the run."""
    home, ledger, plan = planned
    tracker = Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
    run = plan.runs[0]
    surplus, bound = (tracker.create(run.key, run.name, {}, {}) for _ in range(2))
    assert ledger.runs.set_tracking_id(run.key, None, bound)
    for _ in range(2):
        MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker).deliver()
    assert ledger.runs.of([run.key])[run.key].tracking_id == bound
    assert history(tracker, bound, "train/val_nll") == [(0, 2.5)] and history(tracker, surplus, "train/val_nll") == []
    finish_all(home, plan)
    MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker).deliver()
    evidence = Evidence(plan, ledger, open_reader(f"sqlite:///{home.mlflow}"))
    scores = evidence.numbers(plan.runs[0].label, "train/val_nll")
    assert [evidence.tracked[source.run].id for source in scores.sources] == [bound]


def test_a_run_that_was_left_half_made_is_completed(planned: tuple[Home, Ledger, Plan]) -> None:
    """Its scheduler was killed between creating it and telling its parameters."""
    home, ledger, plan = planned
    tracker = Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
    half = str(
        tracker.client.create_run(tracker.experiment, run_name="x", tags={KEY_TAG: plan.runs[0].key}).info.run_id
    )
    MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker).deliver()
    found = tracker.client.get_run(half)
    assert ledger.runs.of([plan.runs[0].key])[plan.runs[0].key].tracking_id == half
    assert found.data.params["selfguided.mask_ratio"] == "0.25"
    assert "mask_ratio" in attached(tracker, half, "spec.yaml", home.path)


def test_a_new_store_is_made_by_one_and_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.sqlite"
    code = "import sys; from star.tracking.writer import Tracker; print(Tracker(sys.argv[1], None).experiment)"
    command = [sys.executable, "-c", code, f"sqlite:///{path}"]
    kills = "import os, signal; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"  # all is written, nothing is named
    victim = subprocess.run([sys.executable, "-c", kills + code, f"sqlite:///{path}"])
    assert victim.returncode == -signal.SIGKILL and not path.exists()
    assert (tmp_path / "mlflow.sqlite.new").stat().st_size > 100_000
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=200)[0] for process in both)
    assert first == second != ""
    assert {left.name for left in tmp_path.iterdir()} == {"mlflow.sqlite", "mlflow.sqlite.lock"}


def test_a_kill_before_the_status_is_set(planned: tuple[Home, Ledger, Plan]) -> None:
    home, ledger, plan = planned
    tracker = Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
    tracker.set_status, kept = lambda run_id, status: None, tracker.set_status  # type: ignore[method-assign]
    finish_all(home, plan)
    MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker).deliver()
    tracker.set_status = kept  # type: ignore[method-assign]
    for _ in range(2):
        MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker).deliver()
        runs = tracker.client.search_runs([tracker.experiment])
        assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_tracker_that_is_away_stops_nothing(planned: tuple[Home, Ledger, Plan]) -> None:
    home, ledger, plan = planned

    def away() -> Tracker:
        raise ConnectionError("no server")

    courier = MetricsSync(home, ledger, Shipment.of(plan), away)
    courier.start()
    assert isinstance(courier.finish(), ConnectionError)
    assert ledger.runs.tracked([plan.runs[0].key]) == {}


def test_a_run_reads_well_in_mlflow(planned: tuple[Home, Ledger, Plan], tmp_path: Path) -> None:
    """Named by experiment and row, with all experiments that use it, a description, and its spec and log as files."""
    home, ledger, plan = planned
    tracker = Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
    folder = home.job("train", plan.runs[0].stages["train"])
    folder.log.write_text("== attempt 1\n" + "x" * 2_000_000 + "\nthe end\n")
    MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker).deliver()
    other = replace(Shipment.of(plan), experiment="another")
    MetricsSync(home, ledger, other, lambda: tracker).deliver()
    found = tracker.find(plan.runs[0].key, None)
    assert found and found.info.run_name == f"tiny: {plan.runs[0].label}, seed 0"
    tags = found.data.tags
    assert tags["star.experiments"] == "another, tiny"
    assert tags["star.experiment.tiny"] == tags["star.experiment.another"] == plan.runs[0].label
    assert (
        plan.runs[0].label in tags["mlflow.note.content"]
        and plan.runs[0].stages["train"] in tags["mlflow.note.content"]
    )
    assert not any(value.startswith("{") for name, value in tags.items() if name.startswith("star."))
    run = str(found.info.run_id)
    spec = yaml.safe_load(attached(tracker, run, "spec.yaml", tmp_path))
    assert spec["selfguided"]["mask_ratio"] == 0.25
    log = attached(tracker, run, "train/log.txt", tmp_path)
    assert log.endswith("the end\n") and "are left out" in log[:60] and len(log) < 1_100_000


def test_what_a_job_takes_of_its_machine_is_carried_once(planned: tuple[Home, Ledger, Plan]) -> None:
    home, ledger, plan = planned
    tracker = Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
    folder = home.job("train", plan.runs[1].stages["train"])
    lines = [{"time": float(i), "step": i, "metrics": {"memory_megabytes": 100.0 + i}} for i in (1, 2)]
    folder.usage.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(2):  # a second courier knows nothing of the first
        courier = MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker)
        courier.deliver()
        courier.deliver()
    run = tracker.find(plan.runs[1].key, None)
    assert run
    found = tracker.client.get_metric_history(str(run.info.run_id), "system/train/memory_megabytes")
    assert [(point.step, point.value) for point in found] == [(1, 101.0), (2, 102.0)]


def test_mlflow_knows_what_became_of_a_run(planned: tuple[Home, Ledger, Plan]) -> None:
    """Waiting, running, failed, cancelled, and running again after a retry."""
    home, ledger, plan = planned
    tracker = Tracker(f"sqlite:///{home.mlflow}", home.artifacts)
    courier = MetricsSync(home, ledger, Shipment.of(plan), lambda: tracker)
    key = plan.runs[0].stages["train"]

    def status() -> str:
        courier.deliver()
        found = tracker.find(plan.runs[0].key, None)
        assert found
        return str(found.info.status)

    assert status() == "SCHEDULED"
    running = ledger.jobs.claim(ledger.jobs.of([key])[key], "me", "started", Allocation("here"))
    assert running and status() == "RUNNING"
    assert ledger.jobs.move(running, FAILED, "error", "so") and status() == "FAILED"
    assert ledger.jobs.move(ledger.jobs.of([key])[key], QUEUED, "again", "so") and status() == "SCHEDULED"
    assert ledger.jobs.move(ledger.jobs.of([key])[key], CANCELLED, "cancelled", "so") and status() == "KILLED"
    ended = tracker.find(plan.runs[0].key, None)
    assert ended and ended.info.end_time
    assert ledger.jobs.move(ledger.jobs.of([key])[key], QUEUED, "again", "so")
    again = ledger.jobs.claim(ledger.jobs.of([key])[key], "me", "started", Allocation("here"))
    assert again and status() == "RUNNING"
    assert ledger.jobs.move(again, LOST, "died", "so") and status() == "FAILED"
