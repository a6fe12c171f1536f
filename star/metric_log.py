"""A job's numbers by step, in its folder's metrics.jsonl: one JSON line per step, appended by the worker that runs the job."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from star.errors import FULL, PASSING, DataError, has_errno
from star.rundir import JobDir
from star.words import shown

PATIENCE = 30.0
"""Seconds that a job waits for a disk that is full or away: for a moment only, and no line is lost."""
PAUSE = 1.0
log = logging.getLogger(__name__)


class MetricLog:
    """A job's metrics, one JSON line per step.

    A resumed job recomputes the steps since its last checkpoint, with the same values; lines that are there already
    are not written again. A line that a kill cut in half is removed first.
    """

    def __init__(self, path: Path) -> None:
        self._seen: dict[str, int] = {}
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                    seen = {name: max(entry["step"], self._seen.get(name, -1)) for name in entry["metrics"]}
                except (ValueError, KeyError, TypeError):
                    log.warning("%s is damaged from byte %d on: what follows is cut off", path, whole)
                    break
                self._seen |= seen
                whole += len(line)
            os.truncate(path, whole)
        self._file = path.open("ab", buffering=0)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append `metrics` at `step`; a number whose name was recorded at this or a later step is left out.

        Raises:
            OSError: it cannot be written, for PATIENCE seconds where the disk is full or away.
        """
        new = {name: float(value) for name, value in metrics.items() if step > self._seen.get(name, -1)}
        if new:
            line = {"time": round(time.time(), 3), "step": step, "metrics": new}
            self._write(f"{json.dumps(line)}\n".encode())
            self._seen.update(dict.fromkeys(new, step))

    def _write(self, line: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while line:
            try:
                line = line[self._file.write(line) :]
            except OSError as error:
                if not has_errno(error, FULL | PASSING) or time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE)

    def close(self) -> None:
        """Close the file once it is on disk."""
        os.fsync(self._file.fileno())
        self._file.close()


def read_metrics(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each whole line after byte `offset`, parsed, as (byte offset of its end, line).

    Raises:
        DataError: a line is damaged.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        if offset:
            file.seek(offset - 1)
            if file.read(1) != b"\n":  # a power cut took what was there, and other lines followed
                offset = 0
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                entry = json.loads(line)
            except ValueError:
                raise DataError(
                    f"{shown(path)}: is damaged before byte {offset}; `star-exp rerun {path.parent.name.rpartition('-')[2]}` computes that "
                    "job again, and puts this aside."
                ) from None
            yield offset, entry


def last_loss(folder: JobDir) -> float | None:
    """Return the newest loss in the last 4096 bytes of a job's metrics; None where there is none."""
    try:
        with folder.metrics.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[1:-1] if size > 4096 else lines[:-1]):
        try:
            metrics = json.loads(line)["metrics"]
        except (ValueError, KeyError):
            continue
        if "loss" in metrics:
            return float(metrics["loss"])
    return None
