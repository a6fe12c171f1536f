"""Draw figures in parallel: drawing takes most of a report's time, and figures are independent."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from star.devices import usable_cores
from star.report.evidence import Evidence
from star.report.figures import write
from star.report.table import Table
from star.spec.reporting import FigureSpec

Task = tuple[FigureSpec, Evidence, Table | None, Path]
"""The arguments of `star.report.figures.write`."""
MODULES = ("ablation", "arrays", "curves")
"""Modules that are imported once, before the processes fork."""
_inherited: Sequence[Task] = ()


def write_together(tasks: Sequence[Task]) -> Iterator[Path | None]:
    """Write figures, in as many processes as there are CPUs; yields what `write` returns for each, in their order.

    The processes are forks, so they need not read the tracking store again. Only Linux forks safely; on other systems
    figures are drawn one after the other.
    """
    processes = min(usable_cores(), len(tasks)) if sys.platform == "linux" else 1
    if processes < 2:
        yield from (write(*task) for task in tasks)
        return
    for name in MODULES:
        importlib.import_module(f"star.report.figures.{name}")
    pool = ProcessPoolExecutor(processes, get_context("fork"), _inherit, (tasks,))
    try:
        yield from pool.map(_write, range(len(tasks)))
    finally:
        pool.shutdown(cancel_futures=True)


def _inherit(tasks: Sequence[Task]) -> None:
    global _inherited
    _inherited = tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops the others


def _write(index: int) -> Path | None:
    return write(*_inherited[index])
