"""Curves of running and finished jobs, read from their folders as they grow, and thinned for display."""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from star.errors import DataError
from star.metric_log import read_metrics
from star.rundir import JobDir

SHOWN = 600
"""Points of a curve that are sent: the minimum and maximum of each interval, so that no peak is lost."""
KEPT = 200
"""Most files whose content is kept in memory."""
RESULTS_KEPT = 200_000
HEAD = 4096


@dataclass
class _Read:
    head: bytes = b""
    """First line of the file, with its time: it differs if the job is computed again."""
    offset: int = 0
    curves: dict[str, dict[int, float]] = field(default_factory=dict)


class Curves:
    """Cache of jobs' metrics; each line of a file is read once."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _Read] = OrderedDict()
        self._results: dict[Path, tuple[int, dict[str, float]]] = {}
        self._lock = threading.Lock()

    def of(self, folder: JobDir) -> dict[str, dict[int, float]]:
        """Curves that a job has recorded by now: metric -> step -> value."""
        with self._lock:
            known = self._files.setdefault(folder.path, _Read())
            self._files.move_to_end(folder.path)
            try:
                with folder.metrics.open("rb") as file:
                    head = file.readline(HEAD)
                if head != known.head:
                    known.head, known.offset, known.curves = head, 0, {}
                for offset, line in read_metrics(folder.metrics, known.offset):
                    known.offset = offset
                    for name, value in numbers(line["metrics"]).items():
                        known.curves.setdefault(name, {})[operator.index(line["step"])] = value
            except (OSError, DataError, ValueError, KeyError, TypeError):  # a damaged line ends what can be read
                pass
            while len(self._files) > KEPT:
                self._files.popitem(last=False)
            return {name: dict(points) for name, points in known.curves.items()}

    def results(self, folder: JobDir) -> dict[str, float]:
        """Metrics of a job's result; empty while it has none."""
        try:
            written = folder.result.stat().st_mtime_ns
        except OSError:
            return {}
        known = self._results.get(folder.path)
        if known is None or known[0] != written:
            known = written, numbers((folder.read_result() or {}).get("metrics"))
            if len(self._results) < RESULTS_KEPT:
                self._results[folder.path] = known
        return known[1]


def numbers(found: Any) -> dict[str, float]:
    """What of a job's metrics is a number: a file may hold anything."""
    kept = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        with suppress(OverflowError):  # a whole number beyond all floats
            if isinstance(value, int | float) and float(value) is not None:
                kept[name] = value
    return kept


def thinned(points: dict[int, float]) -> tuple[list[int], list[float | None]]:
    """Steps and values of a curve, thinned to about `SHOWN` points; a value that is not finite is None."""
    steps = sorted(points)
    if len(steps) > SHOWN:
        kept: set[int] = {steps[0], steps[-1]}
        size = -(-2 * len(steps) // SHOWN)
        for first in range(0, len(steps), size):
            part = [step for step in steps[first : first + size] if isfinite(points[step])]
            if part:
                kept |= {min(part, key=points.__getitem__), max(part, key=points.__getitem__)}
        steps = sorted(kept)
    return steps, [points[step] if isfinite(points[step]) else None for step in steps]


def together(curves: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Several curves over common steps: `x`, and `series` [{label, y}], with None where a curve has no point.

    A curve without points is kept, so that each curve keeps the colour of its position.
    """
    thin = {label: dict(zip(*thinned(points), strict=True)) for label, points in curves.items()}
    steps = sorted({step for points in thin.values() for step in points})
    return {"x": steps, "series": [{"label": k, "y": [p.get(step) for step in steps]} for k, p in thin.items()]}
