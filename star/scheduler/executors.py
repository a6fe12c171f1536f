"""Make executors by name. Each is imported only when used, because Ray and submitit are heavy and optional.

A user-defined executor is an entry point of an installed package, in the group `star.executors`, or a class in a file,
such as `mine.py:Mine`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, cast

from star.errors import ExecutorError, StarError
from star.process import processes_can_be_told_apart
from star.rundir import Home
from star.scheduler.executor import Executor
from star.words import meant

EXECUTORS = ("local", "slurm", "ray")
GROUP = "star.executors"
METHODS = ("limits", "place", "never", "submit", "poll", "wait", "stop", "close")
Make = Callable[[Home, int | None], Executor]


def make_executor(name: str, home: Home, slots: int | None = None) -> Executor:
    """Make the executor of that name.

    Args:
        slots: CPU slots it may use, where it starts processes on this machine.

    Raises:
        ExecutorError: there is none of that name, what it needs is not installed or not reachable, or a user-defined
            one fails or lacks a part of the contract; or this is no Linux.
    """
    if not processes_can_be_told_apart():
        raise ExecutorError(
            f"--executor {name}: jobs and their scheduler run on Linux, where /proc tells processes apart; there is none on this "
            f"{platform.system()}. Use a Linux machine, or a container; planning, reports, imports and the losses work here too."
        )
    try:
        if name == "local":
            from star.scheduler.local import LocalExecutor

            return LocalExecutor(slots)
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
            f"--executor {name}: {error.name} is not installed; `pip install -e '.[{name}]'` in star's clone brings it."
        ) from None
    return _own(name, home, slots)


def _own(name: str, home: Home, slots: int | None) -> Executor:
    found = _in_file(name) if ".py" in name else _installed(name)
    try:
        made = found(home, slots)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ExecutorError(f"--executor {name}: cannot be made: {type(error).__name__}: {error}.") from error
    lacking = [method for method in (*METHODS, "name", "queues", "chains") if not hasattr(made, method)]
    if lacking:
        raise ExecutorError(f"--executor {name}: lacks {', '.join(lacking)}; docs/own-executor.md has the contract.")
    return cast(Executor, _Guarded(made, name))


class _Guarded:
    """A user-defined executor, whose errors become one sentence with its name and the line."""

    def __init__(self, made: Executor, called: str) -> None:
        self._made, self._called = made, called

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._made, attribute)
        if attribute not in METHODS:
            return value

        @wraps(value)
        def guarded(*arguments: Any, **named: Any) -> Any:
            try:
                return value(*arguments, **named)
            except StarError:
                raise
            except Exception as error:  # the user's code may raise anything
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                text = f"--executor {self._called}: {attribute}: {where}: {type(error).__name__}: {error}."
                raise StarError(text) from error  # an ExecutorError would mean that it is not reachable now

        return guarded


def check_name(name: str) -> None:
    """Say that there is no such executor, before anything is read or computed for it.

    Raises:
        ExecutorError: there is none of that name, or no such file.
    """
    if name not in EXECUTORS:
        _is_there(name) if ".py" in name else _installed(name)


def _installed(name: str) -> Make:
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name not in entries:
        raise ExecutorError(
            f"--executor {name}: there is none of that name{meant(name, [*EXECUTORS, *entries])}; "
            f"give {', '.join([*EXECUTORS, *entries])}, or a class in a file: mine.py:Mine."
        )
    try:
        make: Make = entries[name].load()
    except (Exception, SystemExit) as error:  # the user's code
        raise ExecutorError(f"--executor {name}: {entries[name].value} cannot be loaded: {error}.") from error
    return make


def _is_there(name: str) -> tuple[Path, str]:
    """The file and the class that `FILE.py:CLASS` names."""
    file, _, attribute = name.rpartition(":")
    if not attribute or not Path(file).is_file():
        lacks = "which class is meant is not said" if Path(name).is_file() else f"{file or name} is no file"
        raise ExecutorError(f"--executor {name}: give a file and a class in it, such as mine.py:Mine; {lacks}.")
    return Path(file), attribute


def _in_file(name: str) -> Make:
    """Load the class that `FILE.py:CLASS` names."""
    path, attribute = _is_there(name)
    spec = importlib.util.spec_from_file_location(f"star_own_{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
        make: Make = getattr(module, attribute)
    except (Exception, SystemExit) as error:  # the user's file
        where = _line_of(error, path)
        raise ExecutorError(f"--executor {name}: {where}: {type(error).__name__}: {error}.") from error
    return make


def _line_of(error: BaseException, path: Path) -> str:
    """`FILE:LINE` of the user's file where the error arose; FILE alone where no line of it is known."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)
