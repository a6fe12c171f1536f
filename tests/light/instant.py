"""`python -m tests.light.instant HOME`: a scheduler whose jobs take no time and no process; for what only schedulers do."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from star.errors import ExecutorError
from star.ledger.states import Allocation
from star.ledger.store import open_ledger
from star.pipeline.config import ResourceSpec
from star.rundir import Home, read_json, write_json
from star.scheduler.executor import Exit, Handle, Start, Watched
from star.scheduler.loop import Scheduler
from star.scheduler.plan import make_plan
from star.scheduler.registration import register
from star.scheduler.snapshot import take
from star.spec.load import load


class InstantExecutor:
    """Jobs are done when they are submitted, a few at a time."""

    name = "instant"
    queues = False
    chains = False
    AT_ONCE = 4

    def __init__(self) -> None:
        self.placed = 0

    def limits(self) -> None:
        """None of a machine."""

    def place(self, stage: str, resources: ResourceSpec, held: object) -> Allocation | None:
        """Up to AT_ONCE between two waits."""
        self.placed += 1
        return Allocation(None) if self.placed <= self.AT_ONCE else None

    def never(self, stage: str, resources: ResourceSpec) -> None:
        """There is always room, sooner or later."""

    def submit(self, starts: Sequence[Start]) -> list[Handle | ExecutorError]:
        """Write down that it was done, and its result."""
        for start in starts:
            with (start.job.path / "done.txt").open("a") as file:
                file.write(f"{read_json(start.job.job)['attempt']}\n")
            start.job.out.mkdir(exist_ok=True)
            write_json(start.job.result, {"metrics": {}, "seconds": 0.0, "finished": time.time()}, durable=False)
        return [{"name": start.name} for start in starts]

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """All have ended."""
        return [Exit(0) for _ in watched]

    def wait(self, seconds: float) -> None:
        """Not at all."""
        self.placed = 0
        time.sleep(0.001)

    def stop(self, watched: Watched, kill: bool = False) -> None:
        """There is nothing to stop."""

    def close(self) -> None:
        """Nothing is held."""


def main(path: Path) -> int:
    """Run HOME/mine.yaml; returns 0 when all is done."""
    home = Home(path)
    ledger = open_ledger(home)
    plan = make_plan(load(path / "mine.yaml"), home, ledger)
    register(plan, home, ledger, lambda line: None)
    outcome = Scheduler(home, ledger, InstantExecutor(), take(home), lambda line: None).run(plan, lambda states: None)
    return int(bool(outcome.failed or outcome.blocked))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
