"""Executors of the user's own: from a file, and from an installed package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from star.errors import ExecutorError
from star.rundir import Home, read_json
from star.scheduler.executors import make_executor
from tests.helpers import ROOT
from tests.scheduler.lab import MANY, Lab


def example(folder: Path) -> Path:
    """The one of the page, with workers that only pretend to work."""
    page = (ROOT / "docs" / "own-executor.md").read_text()
    (text,) = re.findall(r"```python\n# executors/detached.py\n(.*?)```", page, re.DOTALL)
    file = folder / "detached.py"
    file.write_text(text.replace('worker="star.worker"', 'worker="tests.light.worker"'))
    return file


@pytest.mark.parametrize("how", ["file", "installed"])
def test_an_experiment_runs_on_it(images: Path, tmp_path: Path, how: str) -> None:
    lab = Lab(tmp_path / "home")
    packages = tmp_path / "packages"
    (packages / "mine-1.0.dist-info").mkdir(parents=True)
    file = example(packages)
    (packages / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (packages / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        "[star.executors]\ndetached = detached:Detached\n"
    )
    named = f"{file}:Detached" if how == "file" else "detached"
    line = ["run", str(MANY), "--plain", "--executor", named, "--home", str(lab.path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{packages}" if how == "installed" else str(ROOT)}
    command = [sys.executable, "-m", "tests.light.cli", *line]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all done: 20 jobs computed" in done.stdout
    for key, job in lab.ledger.jobs.of().items():
        (started,) = (entry for entry in lab.ledger.jobs.history(key) if entry.why == "started")
        assert job.state == "done" and started.reason.startswith("started on detached, code ")
    assert all(json.loads((path / "result.json").read_text())["attempt"] == 1 for path in lab.home.jobs.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("slrm", "there is none of that name .did you mean slurm..; give local, slurm, ray"),
        ("nowhere", "there is none of that name; give local, slurm, ray, or a class in a file"),
        ("gone.py:Mine", "gone.py is no file"),
        ("bad.py", "give a file and a class in it"),
        ("bad.py:Mine", r"bad.py:2: ZeroDivisionError: division by zero"),
        ("half.py:Mine", "lacks limits, place, never, submit, poll, wait, stop, close, queues, chains"),
        ("half.py:Other", "AttributeError: module 'star_own_half' has no attribute 'Other'"),
        ("half.py:raises", "cannot be made: RuntimeError: no cluster here"),
        ("typo.py:Mine", r"typo.py:1: SyntaxError"),
    ],
)
def test_what_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text("x = 1\nx / 0\n")
    Path("typo.py").write_text("def\n")
    text = "class Mine:\n    name = 'x'\n    def __init__(self, home, slots): pass\n\n"
    text += "def raises(home, slots):\n    raise RuntimeError('no cluster here')\n"
    Path("half.py").write_text(text)
    with pytest.raises(ExecutorError, match=says):
        make_executor(name, Home(tmp_path))
    assert read_json(tmp_path / "home.json") is None


def test_what_it_raises_later_is_one_sentence(images: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "home")
    file = example(tmp_path)
    text = file.read_text()
    head = "    def submit("
    assert text.count(head) == 1
    at = text[: text.index(head)].count("\n") + 2
    file.write_text(
        text.replace(head, "    def submit(self, starts):\n        raise OSError('no such queue')\n\n    def later(")
    )
    line = ["run", str(MANY), "--plain", "--executor", f"{file}:Detached", "--home", str(lab.path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.light.cli", *line], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert f"--executor {file}:Detached: submit: detached.py:{at}: OSError: no such queue." in done.stderr
