"""How long a report takes: one table from 1,000 runs, beside the same question to MLflow's own client.

`python -m tests.benchmarks.reports`. The store is a real MLflow database with as many numbers as our runs have.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from star.ledger.store import open_ledger
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.scheduler.registration import register
from star.spec.load import load
from tests.helpers import ROOT, empty_tracking_store

ROWS, SEEDS = 100, 10
CLIENT = """
from mlflow import MlflowClient
client = MlflowClient("sqlite:///{path}")
runs = client.search_runs([client.get_experiment_by_name("star").experiment_id], max_results=2000)
print(len(runs), sum(run.data.metrics["probe/accuracy"] for run in runs))
"""


def study(folder: Path, rows: int = ROWS) -> Path:
    """An experiment of that many rows, with SEEDS seeds."""
    ratios = [round(0.005 + 0.9 * i / rows, 5) for i in range(rows)]
    text = (
        (ROOT / "tests" / "tiny.yaml")
        .read_text()
        .replace("[0.25, 0.5]", str(ratios))
        .replace("  published: table4\n", "")
    )
    text = text.replace("  match: {mask_ratio: selfguided.mask_ratio}\n", "").replace(", published: fid", "")
    (folder / "profiles").symlink_to(ROOT / "tests" / "profiles")
    (folder / "study.yaml").write_text(text.replace("axes:", f"seeds: {list(range(SEEDS))}\naxes:"))
    return folder / "study.yaml"


def fill(home: Home, file: Path) -> None:
    """Enter the experiment, and write its runs into an MLflow database as the courier does, only faster."""
    shutil.copy(empty_tracking_store(), home.mlflow)
    ledger = open_ledger(home)
    plan = make_plan(load(file), home, ledger)
    register(plan, home, ledger, lambda line: None)
    database = sqlite3.connect(home.mlflow)
    database.execute(
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, creation_time, last_update_time) "
        "VALUES (7, 'star', 'active', 0, 0)"
    )
    names = ["score/efficientnet-lite0/frechet_distance", "probe/accuracy", *(f"train/other_{i}" for i in range(60))]
    for i, run in enumerate(plan.runs):
        database.execute(
            "INSERT INTO runs (run_uuid, name, user_id, source_type, status, start_time, lifecycle_stage, artifact_uri, experiment_id) "
            "VALUES (?, ?, 'me', 'LOCAL', 'FINISHED', ?, 'active', '', 7)",
            (run.key * 2, run.name, i),
        )
        tags = {"star.run": run.key} | {f"star.key.{stage}": key for stage, key in run.stages.items()}
        tags |= {f"star.provenance.{stage}": json.dumps({"code": "0.1.0", "cpu": "x"}) for stage in run.stages}
        for table, rows in (("tags", tags), ("params", {f"p{j}": "1" for j in range(110)})):
            database.executemany(
                f"INSERT INTO {table} (run_uuid, key, value) VALUES (?, ?, ?)",
                [(run.key * 2, key, value) for key, value in rows.items()],
            )
        database.executemany(
            "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, 0, 0, 0)",
            [(run.key * 2, name, i / (j + 1)) for j, name in enumerate(names)],
        )
    database.commit()


def timed(*command: str) -> float:
    """Seconds of a whole process."""
    started = time.time()
    subprocess.run(command, check=True, capture_output=True)
    return time.time() - started


def main() -> None:
    """Print the table of docs/reports.md."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home, file = Home(folder / "home"), study(folder)
        home.path.mkdir()
        fill(home, file)
        report = [
            sys.executable,
            "-m",
            "star.cli",
            "report",
            str(file),
            "--home",
            str(home.path),
            "--out",
            str(folder / "out"),
        ]
        client = [sys.executable, "-c", CLIENT.format(path=home.mlflow)]
        ours, theirs = (min(timed(*command) for _ in range(2)) for command in (report, client))
        print("| one table from 1,000 runs, the whole process | s |\n|---|---:|")
        print(f"| `star-exp report` | {ours:.2f} |\n| MLflow's client, reading the runs alone | {theirs:.2f} |")


if __name__ == "__main__":
    main()
