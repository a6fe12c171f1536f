"""`run` of a finished experiment: nothing is delivered or drawn again, until something that the report is made of changes."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import copy_of, light
from tests.helpers import ROOT, star_exp
from tests.scheduler.lab import MANY, Lab

PLOT = """published_values: values.yaml
figures:
  - {kind: ablation, name: probe, title: Probe, x: selfguided.mask_ratio, columns: [Probe %]}
"""


@pytest.fixture(scope="module")
def reported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which an experiment with a figure is finished."""
    path = tmp_path_factory.mktemp("reported") / "home"
    shutil.copytree(finished, path, symlinks=True)
    (path / "mine.yaml").write_text(MANY.read_text().replace("experiment: many", "experiment: mine") + PLOT)
    (path / "values.yaml").write_text("source: Smith 2020\n")
    (path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    again(path)
    return path


@pytest.fixture
def mine(reported: Path, tmp_path: Path) -> Lab:
    """A copy of it, at another place, with its report."""
    lab = copy_of(reported, tmp_path)
    again(lab.path)
    return lab


def again(home: Path) -> str:
    """Run the experiment; what was said."""
    done = light("run", home / "mine.yaml", "--plain", "--out", home / "reports", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def folder(home: Path) -> Path:
    return home / "reports" / "mine" / "tiny"


def contents(home: Path) -> dict[str, tuple[int, str]]:
    """File of the report -> when it was written, and a hash of its content."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder(home).iterdir()
    }


def test_a_second_run_writes_and_draws_nothing(mine: Lab) -> None:
    before, tracked = contents(mine.path), (mine.path / "mlflow.sqlite").read_bytes()
    assert {"probe.png", "probe.pdf", "table.tex"} <= before.keys()
    said = again(mine.path)
    assert f"unchanged: {folder(mine.path) / 'report.md'}" in said and "wrote" not in said
    assert contents(mine.path) == before
    assert (mine.path / "mlflow.sqlite").read_bytes() == tracked


def test_what_takes_long_to_import_is_not_imported(mine: Lab) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tests.light.cli", "run", "mine.yaml", "--plain"]
    done = subprocess.run([*command, "--home", str(mine.path)], cwd=mine.path, capture_output=True, text=True)
    assert done.returncode == 0 and "unchanged" in done.stdout, done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "sqlalchemy" in imported and not imported & {"mlflow", "matplotlib", "seaborn", "scipy", "torch", "pandas"}


def edited(home: Path) -> None:
    table = folder(home) / "table.csv"
    table.write_text(table.read_text().replace("0.1", "0.9"))


def deleted(home: Path) -> None:
    (folder(home) / "probe.png").unlink()


def retitled(home: Path) -> None:
    file = home / "mine.yaml"
    file.write_text(file.read_text().replace("title: Probe,", "title: Accuracy,"))


def other_published_values(home: Path) -> None:
    file = home / "values.yaml"
    file.write_text(file.read_text().replace("Smith 2020", "Smith 2021"))


def one_row_fewer(home: Path) -> None:
    file = home / "mine.yaml"
    file.write_text(file.read_text().replace("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3]"))
    star_exp("report", str(file), "--replace", home=home, cwd=home)  # else the fuller report would be kept


def another_number(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.sqlite") as database:
        database.execute("UPDATE latest_metrics SET value = value + 0.1 WHERE key = 'probe/accuracy'")


def logged(home: Path) -> None:
    run = next(iter((home / "jobs").glob("probe-*"))).name.partition("-")[2]
    done = star_exp("log", run, "my/score=2", home=home, cwd=home)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "change", [edited, deleted, retitled, other_published_values, one_row_fewer, another_number, logged]
)
def test_a_change_is_reported(mine: Lab, change: Callable[[Path], None]) -> None:
    change(mine.path)
    said = again(mine.path)
    assert "wrote" in said and "unchanged" not in said
    assert "unchanged" in again(mine.path)


def lost(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.sqlite") as database:
        database.execute(
            "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = (SELECT MIN(run_uuid) FROM runs)"
        )


def unfinished(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.sqlite") as database:
        database.execute("UPDATE runs SET status = 'RUNNING'")


def untagged(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.sqlite") as database:
        database.execute("DELETE FROM tags WHERE key = 'star.experiment.mine'")


@pytest.mark.parametrize("change", [lost, unfinished, untagged])
def test_what_the_tracker_has_lost_is_delivered_again(mine: Lab, change: Callable[[Path], None]) -> None:
    question = (
        "SELECT t.key, t.value, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
        "WHERE r.lifecycle_stage = 'active' AND t.key LIKE 'star.%' ORDER BY t.value, t.key"
    )

    def held() -> list[tuple[str, str, str]]:
        with sqlite3.connect(mine.path / "mlflow.sqlite") as database:
            return list(database.execute(question))

    before = held()
    change(mine.path)
    assert held() != before
    again(mine.path)
    assert held() == before
