"""Several schedulers at one ledger, and servers that go away in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from star.ledger.states import DONE
from tests.command import run_module
from tests.helpers import ROOT
from tests.scheduler.lab import MANY, Lab
from tests.services import MlflowServer, Postgres, until


@pytest.fixture
def lab(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Lab(tmp_path / "home")


def test_two_schedulers_and_a_thousand_jobs(database: str, lab: Lab) -> None:
    ratios = ", ".join(f"{0.001 * i:.3f}" for i in range(1, 250))
    lab.file(("[0.1, 0.2, 0.3, 0.4]", f"[{ratios}]"))
    command = [sys.executable, "-m", "tests.light.instant", str(lab.path)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=350) for process in both] == [0, 0]
    ledger = lab.ledger
    jobs = ledger.jobs.of()
    assert len(jobs) == 1000 and {job.state for job in jobs.values()} == {DONE}
    twice = [name.split("-")[1] for name, times in lab.times_done().items() if times != 1]
    assert not twice, [tuple(row) for row in ledger.jobs.history(twice[0])]
    assert len(lab.times_done()) == 1000
    rows = [row for key in jobs for row in ledger.jobs.history(key)]
    assert Counter(row.why for row in rows if row.job in jobs) >= Counter(asked=1000, started=1000)
    assert Counter(row.after for row in rows)[DONE] == 1000
    shares = Counter(row.owner for row in rows if row.why == "started")
    assert len(shares) == 2 and min(shares.values()) > 20, shares


def test_postgresql_restarts_in_the_middle(lab: Lab, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed as a crash would, twice, while jobs start and end; up again after a second."""
    monkeypatch.setenv("STAR_LEDGER_URL", postgres.new_database())
    monkeypatch.setenv("LIGHT_STEPS", "3")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan = lab.plan()
    stops = iter((3, 9))
    at = next(stops)
    outages: list[threading.Thread] = []

    def outage() -> None:
        postgres.stop()
        time.sleep(1)
        postgres.start()

    def tick(states: object) -> None:
        nonlocal at
        if sum(line.startswith("done") for line in lab.said) >= at:
            at = next(stops, 1000)
            outages.append(threading.Thread(target=outage))
            outages[-1].start()

    outcome = lab.run(plan, tick=tick)
    for thread in outages:
        thread.join()
    assert len(outages) == 2 and outcome.done == 20
    assert set(lab.times_done().values()) == {1}
    assert {job.attempt for job in lab.ledger.jobs.of().values()} == {1}


def test_the_mlflow_server_goes_away_while_runs_train(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than LINES lines are waiting when it is back; all of them arrive, once."""
    server = MlflowServer(tmp_path / "mlflow")
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv("LIGHT_STEPS", "2200")
        monkeypatch.setenv("LIGHT_SECONDS", "0.003")
        file = lab.file(
            ("[0.1, 0.2, 0.3, 0.4]", "[0.1]"),
            ("targets: [score, probe]", "targets: [tokenizer, reference]"),
            ("probe/accuracy", "tokenizer/psnr"),
        )
        line = [
            "tests.light.cli",
            "run",
            str(file),
            "--plain",
            "--home",
            str(lab.path),
            "--out",
            str(tmp_path / "reports"),
        ]
        running = subprocess.Popen([sys.executable, "-m", *line], stdout=subprocess.PIPE, text=True)
        plan = lab.plan(file)
        until(lambda: lab.folder(plan, "dataset").metrics.exists(), "the first job is at it")
        until(lambda: bool(lab.ledger.runs.tracked([plan.runs[0].key])), "metrics are carried")
        server.stop()
        until(lambda: lab.folder(plan, "tokenizer").out.exists(), "jobs go on without it")
        server.start()
        out = running.communicate(timeout=350)[0]
        assert running.returncode == 0 and "all done: 3 jobs computed" in out
        again = run_module(*line, environment=os.environ, cwd=ROOT)
        assert again.returncode == 0 and "warning" not in again.stderr, again.stderr
        from mlflow import MlflowClient

        client = MlflowClient(server.uri)
        (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
        assert run.info.status == "FINISHED"
        for stage in ("dataset", "tokenizer", "reference"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, f"{stage}/loss")]
            assert sorted(steps) == list(range(1, 2201)), stage
    finally:
        server.stop()


def test_nobody_left_anything(lab: Lab) -> None:
    """A whole run leaves no process, no scheduler's row and no temporary file."""
    line = ["run", str(MANY), "--plain", "--home", str(lab.path), "--out", str(lab.path / "r")]
    done = run_module("tests.light.cli", *line, environment=os.environ, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.ledger.schedulers.all() == {}
    assert [path for path in lab.path.rglob(".*") if path.is_file()] == []
