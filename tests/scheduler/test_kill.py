"""The whole machine with real trainings: each test kills something and types the same command again. What concerns the scheduler
alone is in test_registration.py and chaos.py, with workers that only pretend."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.helpers import ROOT, living_workers, star_exp

TINY = ROOT / "tests" / "tiny_probe.yaml"
STEPS = "optim.steps=30"


class Running:
    """`star-exp run` in the background, in a process group of its own as a terminal would make it."""

    def __init__(self, home: Path, *sets: str) -> None:
        command = [sys.executable, "-m", "star.cli", "run", str(TINY), "--plain", "--home", str(home)]
        command += [argument for change in (STEPS, *sets) for argument in ("--set", change)]
        self.home = home
        self.process = subprocess.Popen(
            command,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, condition: Callable[[], bool], timeout: float = 300) -> None:
        deadline = time.time() + timeout
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.time() < deadline, "nothing happened"
            time.sleep(0.02)

    def kill(self, number: int) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=200)[0]

    def has_checkpoint(self) -> bool:
        return any(self.home.glob("jobs/train-*/checkpoints/step-*.pt"))

    def workers(self) -> list[psutil.Process]:
        return living_workers(self.home)


def again(home: Path) -> str:
    done = star_exp("run", TINY, "--plain", "--set", STEPS, home=home, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def results(home: Path) -> dict[str, float]:
    """When each job ended."""
    return {path.parent.name: json.loads(path.read_text())["finished"] for path in home.glob("jobs/*/result.json")}


def check_complete(home: Path) -> None:
    """Every job done exactly once; losses without a gap or a repetition; MLflow and the ledger agree."""
    ledger = sqlite3.connect(home / "ledger.sqlite")
    assert {state for (state,) in ledger.execute("select state from jobs")} == {"done"}
    finished = ledger.execute("select job, count(*) from history where after = 'done' group by job").fetchall()
    assert all(count == 1 for _, count in finished)
    curves = {}
    for folder in home.glob("jobs/train-*"):
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == [1, 10, 20, 30]
        curves[folder.name.removeprefix("train-")] = [
            json.loads(line)["metrics"]["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
    mlflow = sqlite3.connect(home / "mlflow.sqlite")
    runs = mlflow.execute("select run_uuid, status from runs where lifecycle_stage = 'active'").fetchall()
    assert [status for _, status in runs] == ["FINISHED"] * 2
    for run, _ in runs:
        (key,) = mlflow.execute(
            "select value from tags where run_uuid = ? and key = 'star.key.train'", (run,)
        ).fetchone()
        logged = mlflow.execute(
            "select value from metrics where run_uuid = ? and key = 'train/loss' order by step", (run,)
        ).fetchall()
        assert [value for (value,) in logged] == pytest.approx(curves[key])
    assert not list(home.glob("jobs/*/scratch"))


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the experiment ran without disturbance."""
    import shutil

    home = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(prepared / "jobs", home / "jobs")
    (home / "data").symlink_to(prepared / "data")
    again(home)
    return home


def check_same_numbers(home: Path, undisturbed: Path, rel: float = 0.0) -> None:
    for path in undisturbed.glob("jobs/*/result.json"):
        mine = json.loads((home / "jobs" / path.parent.name / "result.json").read_text())
        assert mine["metrics"] == pytest.approx(json.loads(path.read_text())["metrics"], rel=rel, abs=0), path


def test_the_same_command_again_finishes_at_once(undisturbed: Path) -> None:
    before = results(undisturbed)
    check_complete(undisturbed)
    out = again(undisturbed)
    assert "all done: nothing was left to compute" in out and "started" not in out
    assert results(undisturbed) == before


def test_a_killed_worker_goes_on_from_its_checkpoint(home: Path, undisturbed: Path) -> None:
    run = Running(home)
    run.until(run.has_checkpoint)
    victim = next(iter(run.home.glob("jobs/train-*/checkpoints"))).parent.name
    for worker in run.workers():
        if victim in worker.cmdline()[-1]:
            os.kill(worker.pid, signal.SIGKILL)
    out = run.process.communicate(timeout=200)[0]
    assert run.process.returncode == 0, out
    assert "(its worker died by signal 9); queued again" in out and "resumed" in out
    check_complete(home)
    check_same_numbers(home, undisturbed)


def test_ctrl_c_stops_both_ranks_and_one_process_goes_on(home: Path, undisturbed: Path) -> None:
    run = Running(home, "resources.processes={train: 2}")
    run.until(run.has_checkpoint)
    assert len(run.workers()) >= 3, "torchrun and its two children"
    out = run.kill(signal.SIGINT)
    assert run.process.returncode == 130, out
    assert run.workers() == []
    assert "resumed" in again(home)
    check_complete(home)
    check_same_numbers(home, undisturbed, rel=1e-3)


def test_everything_killed_at_once(home: Path, undisturbed: Path) -> None:
    run = Running(home)
    run.until(run.has_checkpoint)
    victims = run.workers()
    run.kill(signal.SIGKILL)
    for worker in victims:
        worker.kill()
    psutil.wait_procs(victims, timeout=300)
    again(home)
    check_complete(home)
    check_same_numbers(home, undisturbed)
