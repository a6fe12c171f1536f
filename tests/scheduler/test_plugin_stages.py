"""Stages of plugins as jobs: alone, killed on the way, wrong, and on the engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from star.rundir import read_json
from tests.helpers import living_workers, star_exp
from tests.services import until

PLUGIN = '''import json
import os
import time

from star.errors import DataError, Stopped
from star.plugin import Stage, StageConfig


class CountConfig(StageConfig):
    to: int = 40
    fail: str = ""


class Count(Stage):
    """Adds numbers up, slowly, and goes on where it was."""

    name = "count"
    config = CountConfig
    results = ("total", "first")
    curves = {"sum": "step"}
    keeps = "checkpoints"
    uses_seed = True
    gpu = False

    def run(self, config, job):
        state = job.checkpoints / "state.json"
        first, total = json.loads(state.read_text()) if state.exists() else (0, job.seed)
        for step in range(first + 1, config.to + 1):
            total += step
            job.record(step, {"sum": total})
            time.sleep(float(os.environ.get("COUNT_SECONDS", "0")))
            job.checkpoints.mkdir(exist_ok=True)
            new = state.with_suffix(".new")
            new.write_text(json.dumps([step, total]))
            new.replace(state)
            job.progress(step, config.to)
            if job.stop():
                raise Stopped(f"after {step}")
        if config.fail == "data":
            raise DataError("count.to: is too high for today; give less.")
        if config.fail == "bug":
            raise KeyError("spelt")
        if config.fail == "curve":
            job.record(1, {"summ": 1.0})
        if config.fail == "input":
            job.inputs["train"]
        if config.fail == "none":
            return None
        if config.fail == "nan":
            return {"total": float("nan"), "first": first}
        return {"total": total, "first": first} | ({"more": 1} if config.fail == "more" else {})
'''
YAML = """experiment: counts
title: Counts
plugins: [counting.py]
targets: [count]
seeds: [0, 5]
rows: [{label: all, spec: {count: {to: 40}}}]
table:
  caption: Totals
  columns: [{title: Total, metric: count/total, better: higher}]
"""


def written(folder: Path) -> Path:
    folder.mkdir()
    (folder / "counting.py").write_text(PLUGIN)
    (folder / "counts.yaml").write_text(YAML)
    return folder / "counts.yaml"


def results(home: Path) -> dict[int, dict[str, float]]:
    """Seed -> numbers."""
    found = {}
    for path in (home / "jobs").glob("count-*"):
        job, result = read_json(path / "job.json"), read_json(path / "result.json")
        assert job is not None and result is not None
        found[job["spec"]["seed"]] = result["metrics"]
    return found


def test_a_run_of_nothing_else(tmp_path: Path) -> None:
    """No section, profile or data of ST-AR is asked for."""
    file, home = written(tmp_path / "mine"), tmp_path / "home"
    done = star_exp("run", file, "--plain", home=home, cwd=tmp_path)
    assert done.returncode == 0 and "all done: 2 jobs computed" in done.stdout, done.stdout + done.stderr
    assert {seed: one["total"] for seed, one in results(home).items()} == {0: 820, 5: 825}
    spec = (read_json(next((home / "jobs").glob("count-*")) / "job.json") or {})["spec"]
    assert set(spec) == {"resources", "seed", "plugins", "count"}
    assert "822.50 ± " in (home / "reports" / "counts" / "none" / "report.md").read_text()
    assert "total 820" in star_exp("status", home=home).stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_goes_on_from_what_it_kept(tmp_path: Path, number: signal.Signals) -> None:
    file, home = written(tmp_path / "mine"), tmp_path / "home"
    environment = os.environ | {"COUNT_SECONDS": "0.05"}
    command = [sys.executable, "-m", "star.cli", "run", file, "--plain", "--seeds", "5", "--home", home]
    scheduler = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    states = lambda: [path.read_text() for path in home.glob("jobs/count-*/checkpoints/state.json")]  # noqa: E731
    until(lambda: scheduler.poll() is not None or any(json.loads(state)[0] >= 3 for state in states()), "three steps")
    for worker in living_workers(home):
        worker.send_signal(number)
    assert "all done: 1 job computed" in scheduler.communicate(timeout=120)[0] and scheduler.returncode == 0
    (found,) = results(home).values()
    assert found["total"] == 825 and found["first"] >= 3, "the next attempt began where this one was"
    (folder,) = (home / "jobs").glob("count-*")
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["metrics"]["sum"] for line in lines} == {n: 5 + n * (n + 1) // 2 for n in range(1, 41)}


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("data", ["DataError: count.to: is too high for today; give less."]),
        ("bug", ["KeyError", "spelt"]),
        ("nan", ["total"]),
        ("curve", ["count: recorded summ, and declares curves = {'sum': 'step'}."]),
        ("input", ["job.inputs['train']: this stage does not come after it; there are: none."]),
        ("none", ["count: run returned NoneType; return a number for each of ['total', 'first'], by name."]),
        ("attach", ["count: declares attach = ['a.png'], and left no a.png in job.out."]),
        ("more", ["count: returned first, more, total, and declares results = ['total', 'first']"]),
    ],
)
def test_what_goes_wrong_in_it_is_said(tmp_path: Path, kind: str, expected: list[str]) -> None:
    file, home = written(tmp_path / "mine"), tmp_path / "home"
    line = ["run", file, "--plain", "--seeds", "0", "--set", f"count.fail={kind}"]
    file.write_text(YAML.replace("to: 40", "to: 2"))
    if kind == "attach":
        plugin = file.with_name("counting.py")
        plugin.write_text(plugin.read_text().replace("    uses_seed", '    attach = ("a.png",)\n    uses_seed'))
    began = time.time()
    done = star_exp(*line, home=home, cwd=tmp_path)
    assert done.returncode == 1 and all(part in done.stderr for part in expected), done.stdout + done.stderr
    assert time.time() - began < 60, "it is not tried again"
    log = next((home / "jobs").glob("count-*/log.txt")).read_text()
    assert ('counting.py", line' in log) is (kind == "bug")


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_it_runs_on_the_engines(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = request.getfixturevalue({"slurm": "slurm", "ray": "ray_cluster"}[engine])
    environment = cluster.environment if engine == "ray" else {}
    file, home = written(tmp_path / "mine"), tmp_path / "home"
    done = star_exp("run", file, "--plain", "--executor", engine, home=home, cwd=tmp_path, **environment)
    assert done.returncode == 0 and "all done: 2 jobs computed" in done.stdout, done.stdout + done.stderr
    assert {seed: one["total"] for seed, one in results(home).items()} == {0: 820, 5: 825}
