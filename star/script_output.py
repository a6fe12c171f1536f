"""Read what a script leaves for the platform: the numbers that it ends with, and those it reports while it runs."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from star.errors import DataError, StarError
from star.rundir import JobDir, MetricLog, write_json
from star.spec.scripts import ScriptStage

ATTEMPT = "== attempt "
"""Start of the line with which each attempt's part of a log begins."""
log = logging.getLogger("star.worker")


def results_of(script: ScriptStage, stage: str, path: Path, printed: Path) -> dict[str, float]:
    """Return the declared numbers that a script ended with, by name.

    Args:
        path: the script's results file.
        printed: the job's log; it is searched instead where the script declares patterns.

    Raises:
        StarError: the file is missing or is no JSON mapping of names to numbers, or a declared number is missing.
    """
    what = f"stages.{stage}.results"
    if script.patterns:
        return _printed(script.patterns, printed, what)
    if not script.results and not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise StarError(
            f"{what}: the command ended without writing {path.name}; write the numbers there as JSON, such as "
            f'{{"{next(iter(script.results))}": 0.5}}, into the folder that it is given as {{out}}, or name its own file as results_file.'
        ) from None
    except ValueError as error:
        raise StarError(f"{what}: {path.name} is not JSON: {error}; write a mapping of names to numbers.") from None
    if not isinstance(found, dict):
        raise StarError(f"{what}: {path.name} holds no mapping of names to numbers.")
    numbers = {name: float(value) for name, value in found.items() if _is_number(value)}
    lacking = [name for name in script.results if name not in numbers]
    if lacking:
        raise StarError(
            f"{what}: {path.name} has no number {', '.join(lacking)}; it has {', '.join(numbers) or 'none'}. Declare those that it has, "
            "or write the others."
        )
    more = [name for name in numbers if name not in script.results]
    if more:
        log.info("also written, and not kept: %s; `results` says what is", ", ".join(more))
    return {name: numbers[name] for name in script.results}


def _printed(patterns: Mapping[str, str], path: Path, what: str) -> dict[str, float]:
    text = path.read_text(errors="replace").rpartition(ATTEMPT)[2]
    found = {}
    for name, pattern in patterns.items():
        matches = re.findall(pattern, text)
        if not matches:
            raise StarError(f"{what}.{name}: {pattern!r} matches nothing that the command printed; see its log.")
        last = matches[-1][0] if isinstance(matches[-1], tuple) else matches[-1]
        try:
            found[name] = float(last)
        except ValueError:
            raise StarError(f"{what}.{name}: {last!r} is no number; put the number alone in the first group.") from None
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def last_line(path: Path) -> str:
    """Return the last line that the newest attempt printed, up to 300 characters; empty lines do not count."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").rpartition(ATTEMPT)[2].splitlines()
        said = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return said if said and " INFO calling " not in said else "it printed nothing"
    return "it printed nothing"


class Reports:
    """Copies a script's curves file into the job's metrics, and its progress into progress.json.

    Each entry is like `{"step": 3, "loss": 0.5}`; with `"of": 100` it also gives the progress.

    Args:
        path: lines of JSON that are appended to; or a .csv or .json, which is read again whenever it has changed.
    """

    def __init__(self, path: Path, job_dir: JobDir) -> None:
        self.path, self.progress = path, job_dir.progress
        self.metrics = MetricLog(job_dir.metrics)
        self.offset, self.line = 0, 0
        self.seen: tuple[int, int] | None = None
        self.started = time.time()
        self.first: int | None = None
        self.names: set[str] = set()
        """Names of all numbers that were reported."""

    def carry(self, last: bool = False) -> None:
        """Record what the script has added since the last call.

        Args:
            last: whether the script has ended, so that a file that is half written stays so.

        Raises:
            DataError: an entry is not in the required form.
        """
        try:
            state = self.path.stat()
        except OSError:
            return
        if self.seen == (state.st_size, state.st_mtime_ns):
            return
        try:
            for entry in self._entries():
                self._record(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if not last and self.path.suffix != ".jsonl":
                return  # it is being written
            raise DataError(
                f'{self.path.name}:{self.line}: is not as {{"step": 3, "loss": 0.5}}: {type(error).__name__}: {error}.'
            ) from None
        self.seen = (state.st_size, state.st_mtime_ns)

    def _entries(self) -> Iterable[dict[str, Any]]:
        if self.path.suffix == ".csv":
            whole_lines = self.path.read_text().rpartition("\n")[0]  # the last may be half written
            return list(csv.DictReader(whole_lines.splitlines()))
        if self.path.suffix == ".json":
            whole = json.loads(self.path.read_text())
            return list(whole["log_history"] if isinstance(whole, dict) else whole)
        return self._new_lines()

    def _new_lines(self) -> Iterable[dict[str, Any]]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                self.line += 1
                yield json.loads(line)

    def _record(self, entry: dict[str, Any]) -> None:
        step = int(entry["step"])
        if step < 0 or str(step) != str(entry["step"]).removesuffix(".0"):
            raise ValueError(f"the step {entry['step']!r} is no whole number from 0")
        numbers: dict[str, float] = {}
        for name, value in entry.items():
            if name in ("step", "of") or value in (None, ""):
                continue
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError):
                if self.path.suffix == ".jsonl":  # here a text is a mistake; other formats have columns of texts
                    raise
        self.names |= set(numbers)
        if numbers:
            self.metrics.record(step, numbers)
        if _is_number(entry.get("of")):
            now = time.time()
            self.first = step if self.first is None else self.first
            rate = (step - self.first) / max(1e-9, now - self.started)
            write_json(
                self.progress, {"done": step, "total": int(entry["of"]), "rate": rate, "time": now}, durable=False
            )

    def close(self) -> None:
        """Record what is left and close the metrics.

        Raises:
            DataError: an entry is not in the required form.
        """
        self.carry(last=True)
        self.metrics.close()
