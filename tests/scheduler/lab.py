"""A home, a ledger and a scheduler in this process, whose workers only pretend to work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from star.ledger.states import Job
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home, JobDir
from star.scheduler.executor import Executor
from star.scheduler.local import LocalExecutor
from star.scheduler.loop import Outcome, Scheduler
from star.scheduler.plan import Plan, make_plan
from star.scheduler.registration import register
from star.scheduler.snapshot import take
from star.spec.load import load
from tests.helpers import DATA, ROOT, living_workers

MANY = ROOT / "tests" / "many.yaml"
WORKER = "tests.light.worker"


@dataclass
class Lab:
    """One home."""

    path: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.path / "data").mkdir(parents=True, exist_ok=True)
        (self.path / "data" / "fashion-mnist").symlink_to(DATA)
        os.environ.setdefault("PYTHONPATH", str(ROOT))

    @property
    def home(self) -> Home:
        return Home(self.path)

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.home)

    def file(self, *changes: tuple[str, str]) -> Path:
        """tests/many.yaml with some texts replaced."""
        text = MANY.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        target = self.path / "mine.yaml"
        target.write_text(text)
        if not (self.path / "profiles").exists():
            (self.path / "profiles").symlink_to(ROOT / "tests" / "profiles")
        return target

    def plan(self, file: Path = MANY, sets: Sequence[str] = (), **options: Any) -> Plan:
        return make_plan(load(file, sets=sets, **options), self.home, self.ledger)

    def register(self, plan: Plan, fork: bool = False) -> None:
        register(plan, self.home, self.ledger, self.said.append, fork)

    def scheduler(self, executor: Executor | None = None, slots: int = 2) -> Scheduler:
        executor = executor or LocalExecutor(slots, gpus=list, worker=WORKER)
        return Scheduler(self.home, self.ledger, executor, take(self.home), self.said.append)

    def run(
        self,
        plan: Plan | None = None,
        executor: Executor | None = None,
        fork: bool = False,
        tick: Callable[[dict[str, Job]], None] = lambda states: None,
        slots: int = 2,
    ) -> Outcome:
        """Plan, enter, and compute what is left."""
        plan = plan or self.plan()
        self.register(plan, fork)
        return self.scheduler(executor, slots).run(plan, tick)

    def job(self, plan: Plan, stage: str, row: int = 0) -> Job:
        key = plan.runs[row].stages[stage]
        return self.ledger.jobs.of([key])[key]

    def folder(self, plan: Plan, stage: str, row: int = 0) -> JobDir:
        return self.home.job(stage, plan.runs[row].stages[stage])

    def times_done(self) -> dict[str, int]:
        """Job's folder -> how often a worker finished it."""
        return {path.parent.name: len(path.read_text().split()) for path in self.home.jobs.glob("*/done.txt")}


def command(lab: Lab, *options: str) -> subprocess.Popen[str]:
    """`star-exp run` in a process of its own."""
    line = [
        sys.executable,
        "-m",
        "tests.light.cli",
        "run",
        str(MANY),
        "--plain",
        "--slots",
        "2",
        "--home",
        str(lab.path),
    ]
    return subprocess.Popen(
        [*line, "--out", str(lab.path / "reports"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers(lab: Lab) -> list[psutil.Process]:
    """The living ones of this home."""
    return living_workers(lab.home.path, WORKER)
