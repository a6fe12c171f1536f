"""`python -m tests.scheduler.chaos --kills 100`: kills schedulers, workers, or everything, at random moments, until twenty jobs
are done all the same; then looks for anything that was lost, done twice, or half written."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from star.ledger.states import DONE
from star.pipeline import STAGES
from star.rundir import read_json
from star.scheduler.gc import find
from tests.helpers import ROOT, living_workers
from tests.light.worker import made, value
from tests.scheduler.lab import MANY, WORKER, Lab

STEPS = 30


class Chaos:
    """One home, one command, and somebody who kills."""

    def __init__(self, path: Path, seed: int, seconds: float) -> None:
        self.lab, self.rng = Lab(path), random.Random(seed)
        self.targets = random.Random(seed)  # apart from the moments, of which a slow machine needs more
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "LIGHT_STEPS": str(STEPS),
            "LIGHT_SECONDS": str(seconds / STEPS),
        }
        self.target = self.draw()
        self.hits: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()

    def draw(self) -> str:
        """What is killed next."""
        return self.targets.choice(("worker", "worker", "scheduler", "all"))

    def start(self) -> subprocess.Popen[bytes]:
        """The one command."""
        line = [sys.executable, "-m", "tests.light.cli", "run", str(MANY), "--plain", "--slots", "2"]
        with (self.lab.path / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [*line, "--home", str(self.lab.path), "--out", str(self.lab.path / "reports")],
                stdout=said,
                stderr=said,
                env=self.environment,
                start_new_session=True,
            )

    def workers(self) -> list[psutil.Process]:
        """Of this home."""
        return living_workers(self.lab.home.path, WORKER)

    def run(self, kills: int, timeout: float) -> None:
        """Until that many have hit and the command has ended with 0."""
        deadline, running = time.time() + timeout, self.start()
        while True:
            assert time.time() < deadline, (self.lab.path / "said.txt").read_text()[-3000:]
            left = kills - sum(self.hits.values())
            try:
                code = running.wait(timeout=self.rng.uniform(0.05, 0.6) if left > 0 else 1.0)
            except subprocess.TimeoutExpired:
                if left > 0:
                    self.hit(running)
                continue
            self.codes[code] += 1
            if code == 0:
                assert left <= 0, f"done after {sum(self.hits.values())} kills: give the jobs more seconds"
                return
            assert code in (1, -signal.SIGKILL), (self.lab.path / "said.txt").read_text()[-3000:]
            running = self.start()

    def hit(self, scheduler: subprocess.Popen[bytes]) -> None:
        """Kill the next target, as soon as it is there: on a slow machine a scheduler takes its time to start workers."""
        target, workers = self.target, self.workers()
        if target != "scheduler" and not workers:
            return
        self.target = self.draw()
        if target != "worker":
            scheduler.kill()
        victims = {"worker": [self.rng.choice(workers)] if workers else [], "scheduler": [], "all": workers}[target]
        for victim in victims:
            try:
                os.killpg(victim.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.hits[target] += 1

    def check(self) -> None:
        """Every job done exactly once; every file whole; the ledger, the folders and MLflow say the same."""
        lab, ledger = self.lab, self.lab.ledger
        jobs = ledger.jobs.of()
        assert len(jobs) == 20 and {job.state for job in jobs.values()} == {DONE}
        for key, job in jobs.items():
            rows = ledger.jobs.history(key)
            assert [row.after for row in rows].count(DONE) == 1, key
            starts = [row.attempt for row in rows if row.why == "started"]
            assert starts == list(range(1, job.attempt + 1)), key
            folder = lab.home.job(job.stage, key)
            inputs = {name: value(Path(path) / "out") for name, path in read_json(folder.job)["inputs"].items()}
            assert (folder.out / "value.txt").read_bytes() == made(key, inputs)
            steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
            assert steps == list(range(1, STEPS + 1)), key
            # a kill between the result and the tidying up leaves these, and `gc` finds them
            left = {path for path in (folder.scratch, folder.checkpoints) if path.exists()}
            assert left <= {waste.path for waste in find(lab.home, ledger)}, key
        self._check_mlflow()
        assert self.workers() == []

    def _check_mlflow(self) -> None:
        store = sqlite3.connect(self.lab.home.mlflow)
        runs = store.execute("select run_uuid, status from runs where lifecycle_stage = 'active'").fetchall()
        assert len(runs) == 4 and {status for _, status in runs} == {"FINISHED"}
        assert {run for run, _ in runs} == {row.tracking_id for row in self.lab.ledger.runs.of().values()}
        stages = [stage for stage in STAGES if stage not in ("attention", "features", "floor", "invariance")]
        for run, _ in runs:
            for stage in stages:
                query = "select step from metrics where run_uuid = ? and key = ? order by step"
                steps = [step for (step,) in store.execute(query, (run, f"{stage}/loss"))]
                assert steps == list(range(1, STEPS + 1)), (stage, steps)
                query = "select count(*) from metrics where run_uuid = ? and key = ?"
                assert store.execute(query, (run, f"{stage}/seconds")).fetchone() == (1,), stage


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one job, undisturbed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder) / "home", options.seed, options.seconds)
        began = time.time()
        chaos.run(options.kills, 3600)
        chaos.check()
        attempts = sum(job.attempt for job in chaos.lab.ledger.jobs.of().values())
        print(
            f"{sum(chaos.hits.values())} kills in {time.time() - began:.0f} s ({dict(chaos.hits)}), exit codes {dict(chaos.codes)}: "
            f"20 jobs done once each in {attempts} attempts; folders, ledger and MLflow agree"
        )


if __name__ == "__main__":
    main()
