"""`python -m tests.light.cli run FILE ...`: star-exp with workers that only pretend to work."""

from __future__ import annotations

import star.cli.run
import star.cli.search
from star.cli.main import main
from star.rundir import Home
from star.scheduler import executors
from star.scheduler.executor import Executor
from star.scheduler.local import LocalExecutor

WORKER = "tests.light.worker"


def make_light(name: str, home: Home, slots: int | None = None) -> Executor:
    """As `executors.make_executor`, with another worker."""
    if name == "local":
        return LocalExecutor(slots, worker=WORKER)
    made = executors.make_executor(name, home, slots)
    made.worker = WORKER  # type: ignore[attr-defined]
    return made


if __name__ == "__main__":
    star.cli.run.make_executor = make_light
    star.cli.search.make_executor = make_light
    main()
