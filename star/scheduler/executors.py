"""Executors by name; each is imported when it is wanted, because Ray and submitit are heavy, and extras."""

from __future__ import annotations

from star.errors import ExecutorError
from star.rundir import Home
from star.scheduler.executor import Executor

EXECUTORS = ("local", "slurm", "ray")


def make_executor(name: str, home: Home, slots: int | None = None) -> Executor:
    """The executor of that name.

    Raises:
        ExecutorError: what it needs is not installed, or not there.
    """
    try:
        if name == "slurm":
            from star.scheduler.slurm import SlurmExecutor

            return SlurmExecutor(home)
        if name == "ray":
            from star.scheduler.ray_token import prepare

            prepare()
            from star.scheduler.ray import RayExecutor

            return RayExecutor(home, slots)
    except ModuleNotFoundError as error:
        raise ExecutorError(
            f"--executor {name}: {error.name} is not installed; `pip install 'star-exp[{name}]'` brings it."
        ) from None
    from star.scheduler.local import LocalExecutor

    return LocalExecutor(slots)
