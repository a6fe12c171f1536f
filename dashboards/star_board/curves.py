"""Curves of running and finished jobs, read from their folders as they grow, and thinned to what a screen can show."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from star.errors import DataError
from star.rundir import JobDir, read_json, read_metrics

SHOWN = 600
"""Points of a curve that are sent: the least and the greatest of each stretch, so that no peak is lost."""
KEPT = 200
"""Files whose content is held."""
RESULTS_KEPT = 200_000
HEAD = 4096


@dataclass
class _Read:
    head: bytes = b""
    """The first line, with the time of its writing: of a job that is computed anew it is another."""
    offset: int = 0
    curves: dict[str, dict[int, float]] = field(default_factory=dict)


class Curves:
    """Metrics by job; each line of a file is read once."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _Read] = OrderedDict()
        self._results: dict[Path, tuple[int, dict[str, float]]] = {}
        self._lock = threading.Lock()

    def of(self, folder: JobDir) -> dict[str, dict[int, float]]:
        """Metric -> step -> value, of everything that a job has recorded by now."""
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
                    for name, value in line["metrics"].items():
                        known.curves.setdefault(name, {})[line["step"]] = value
            except (OSError, DataError, ValueError, KeyError):  # a damaged line ends what can be read
                pass
            while len(self._files) > KEPT:
                self._files.popitem(last=False)
            return {name: dict(points) for name, points in known.curves.items()}

    def results(self, folder: JobDir) -> dict[str, float]:
        """The numbers that a job has ended with; none before."""
        try:
            written = folder.result.stat().st_mtime_ns
        except OSError:
            return {}
        known = self._results.get(folder.path)
        if known is None or known[0] != written:
            known = written, (read_json(folder.result) or {}).get("metrics", {})
            if len(self._results) < RESULTS_KEPT:
                self._results[folder.path] = known
        return known[1]


def thinned(points: dict[int, float], most: int = SHOWN) -> tuple[list[int], list[float | None]]:
    """Steps and values, at most `most` of them; a value that is no number is a gap."""
    steps = sorted(points)
    if len(steps) > most > 0:
        kept: set[int] = {steps[0], steps[-1]}
        size = -(-2 * len(steps) // most)
        for first in range(0, len(steps), size):
            part = [step for step in steps[first : first + size] if isfinite(points[step])]
            if part:
                kept |= {min(part, key=points.__getitem__), max(part, key=points.__getitem__)}
        steps = sorted(kept)
    return steps, [points[step] if isfinite(points[step]) else None for step in steps]


def together(curves: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Several curves over one row of steps: `x`, and `series` [{label, y}], with null where a curve has no point.

    One without any point stays, so that each has the colour of its place.
    """
    thin = {label: dict(zip(*thinned(points), strict=True)) for label, points in curves.items()}
    steps = sorted({step for points in thin.values() for step in points})
    return {"x": steps, "series": [{"label": k, "y": [p.get(step) for step in steps]} for k, p in thin.items()]}
