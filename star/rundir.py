"""A job's folder: where its files are, and how they are written so that nobody ever reads half of one.

job.json        what to do: stage, key, spec, inputs        written by the scheduler
log.txt         what the worker printed, all attempts       written by the worker process
metrics.jsonl   one line per step: {"time", "step", ...}    written by the worker
progress.json   how far it is                               written by the worker
out/            what it made                                moved into place when complete
result.json     its numbers and provenance                  written last; its presence means done
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DONE, USER_ERROR, BUSY, FAILED, PREEMPTED = 0, 2, 3, 70, 75
"""Exit codes of a worker: done; the user's mistake; another worker holds the job; failed; stopped on request, state saved."""
STOPPED = "Stopped"
"""Class, in failure.json, of a failure that is none: the job stopped on request."""


class JobDir:
    """Paths of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = path / "job.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.progress = path / "progress.json"
        self.out = path / "out"
        self.result = path / "result.json"
        self.failure = path / "failure.json"
        self.lock = path / "lock"
        self.scratch = path / "scratch"
        self.checkpoints = path / "checkpoints"

    def locked(self) -> bool:
        """Whether some worker is at it."""
        try:
            with self.lock.open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True


class Home:
    """The folder that holds everything `star` writes, apart from reports."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.jobs = self.path / "jobs"
        self.data = self.path / "data"
        self.references = self.path / "references"
        self.ledger = self.path / "ledger.sqlite"
        self.mlflow = self.path / "mlflow.sqlite"
        self.artifacts = self.path / "mlartifacts"

    def job(self, stage: str, key: str) -> JobDir:
        """The folder of the job with this key."""
        return JobDir(self.jobs / f"{stage}-{key}")


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write `value` so that a reader sees the old file or the new one."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode(), durable)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """A temporary file beside it, synced when it must outlive a power cut, then renamed over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None when there is none (yet)."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


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
                whole += len(line)
                entry = json.loads(line)
                for name in entry["metrics"]:
                    self._seen[name] = max(entry["step"], self._seen.get(name, -1))
            os.truncate(path, whole)
        self._file = path.open("a", buffering=1)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append `metrics` at `step`; a name's steps only grow."""
        new = {name: float(value) for name, value in metrics.items() if step > self._seen.get(name, -1)}
        if new:
            self._file.write(json.dumps({"time": round(time.time(), 3), "step": step, "metrics": new}) + "\n")
            self._seen.update(dict.fromkeys(new, step))

    def close(self) -> None:
        """Flush to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read_metrics(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line after byte `offset`, with the offset behind it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, json.loads(line)
