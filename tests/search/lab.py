"""A search with workers that only pretend: a home, its study, and `star-exp search` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optuna.trial import FrozenTrial

from star.cli.store import connect
from star.errors import ExecutorError
from star.ledger.store import open_ledger
from star.pipeline import STAGES
from star.rundir import Home, read_json, write_json
from star.scheduler.executor import Exit, Handle, Start, Watched
from star.scheduler.loop import Scheduler
from star.scheduler.reindex import deliver
from star.scheduler.snapshot import take
from star.search.job_source import Trials
from star.search.segments import TrialSegments
from star.search.study import Study
from star.search.warm import promote, warm_start
from star.spec.load_search import load_search
from tests.command import run_module
from tests.helpers import DATA, ROOT
from tests.light.instant import InstantExecutor
from tests.light.worker import bowl

SEARCH = ROOT / "tests" / "tiny_search.yaml"


class BowlExecutor(InstantExecutor):
    """Jobs are done when they are submitted, with numbers that depend on alpha, beta and r; those of `broken` stages fail."""

    def __init__(self, broken: Sequence[str] = ()) -> None:
        super().__init__()
        self.broken, self.most = broken, 0

    def submit(self, starts: Sequence[Start]) -> list[Handle | ExecutorError]:
        """As the parent, with numbers."""
        kept = [start for start in starts if start.stage not in self.broken]
        super().submit(kept)
        for start in kept:
            result = read_json(start.job.result)
            names = {name.split("}/")[-1] for name in STAGES[start.stage].results}
            found = {name: value for name, value in bowl(read_json(start.job.job)["spec"]).items() if name in names}
            write_json(
                start.job.result,
                {**result, "metrics": found, "seconds": 3.6, "provenance": {"code": "none"}},
                durable=False,
            )
        return [{"name": start.name} for start in starts]

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """Those that have no result were the user's mistake."""
        return [Exit(0 if one.job.result.exists() else 2) for one in watched]


class SearchLab:
    """One home and one file."""

    def __init__(self, path: Path, *changes: tuple[str, str]) -> None:
        self.path = path
        (path / "data").mkdir(parents=True, exist_ok=True)
        if not (path / "data" / "fashion-mnist").exists():
            (path / "data" / "fashion-mnist").symlink_to(DATA)
        self.file = path / "search.yaml"
        text = SEARCH.read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        self.file.write_text(text)
        if not (path / "profiles").exists():
            (path / "profiles").symlink_to(ROOT / "tests" / "profiles")

    def run(
        self,
        total: int = 6,
        parallel: int = 2,
        budget: float | None = None,
        warm: bool = False,
        promoted: Sequence[int] = (),
        broken: Sequence[str] = (),
    ) -> list[str]:
        """The search in this process, on jobs that take no time; returns what it said."""
        home, said = Home(self.path), list[str]()
        study, ledger = Study(load_search(self.file), home), open_ledger(home)
        promote(study, promoted)
        segments = TrialSegments(home, ledger, study.search.name, lambda plan: None)
        if warm:
            warm_start(study, segments, said.append)
        trials = Trials(study, segments, said.append, parallel, total, budget)
        scheduler = Scheduler(home, ledger, BowlExecutor(broken), take(home), said.append)
        empty = segments.plan(study.search.experiment([], [], study.search.targets))
        scheduler.run(replace(empty, jobs={job.key: job for job in trials.resume()}), lambda states: None, trials)
        return said

    def deliver(self) -> None:
        """Carry all to MLflow, as `star-exp reindex --mlflow` does."""
        home = Home(self.path)
        deliver(home, open_ledger(home), lambda: connect(home))

    def command(self, *options: str, verb: str = "search") -> list[str]:
        home = ["--home", str(self.path), "--out", str(self.path / "reports")]
        plain = ["--plain"] if verb != "report" else []
        return ["tests.light.cli", verb, str(self.file), *plain, *home, *options]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "LIGHT_BOWL": "1", **more}

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *self.command(*options)],
            cwd=ROOT,
            env=self._environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def search(self, *options: str, code: int = 0, **environment: str) -> str:
        """Run it to its end; returns what it said."""
        done = self.to_its_end(*options, **environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def to_its_end(self, *options: str, verb: str = "search", **environment: str) -> subprocess.CompletedProcess[str]:
        return run_module(*self.command(*options, verb=verb), environment=self._environment(environment), cwd=ROOT)

    def trials(self) -> list[FrozenTrial]:
        return Study(load_search(self.file), Home(self.path), begin=False).trials()

    def work(self) -> int:
        """Steps that jobs have recorded."""
        return sum(path.read_bytes().count(b"\n") for path in self.path.glob("jobs/*/metrics.jsonl"))

    def times_done(self) -> dict[str, int]:
        """Job's folder -> how often a worker finished it."""
        return {path.parent.name: len(path.read_text().split()) for path in self.path.glob("jobs/*/done.txt")}
