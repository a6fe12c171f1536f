"""What a script leaves for the platform: the numbers that it ends with, and those that it reports while it runs."""

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
"""Begins the part of a log that is one attempt's."""
log = logging.getLogger("star.worker")


def results_of(script: ScriptStage, stage: str, path: Path, printed: Path) -> dict[str, float]:
    """The numbers that a script ended with.

    Args:
        path: its results file.
        printed: the job's log.

    Raises:
        StarError: there is no such file, it is not JSON of names and numbers, or a declared one is not there.
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
    """The last line of a log that says something, of the newest attempt."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").rpartition(ATTEMPT)[2].splitlines()
        said = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return said if said and " INFO calling " not in said else "it printed nothing"
    return "it printed nothing"


class Reports:
    """Carries a curves file into the job's metrics: `{"step": 3, "loss": 0.5}` on each line; with `"of": 100`, also how far it is.

    Args:
        path: lines of JSON, which grow; or a .csv or .json, which is read again whenever it has changed.
    """

    def __init__(self, path: Path, job_dir: JobDir) -> None:
        self.path, self.progress = path, job_dir.progress
        self.metrics = MetricLog(job_dir.metrics)
        self.offset, self.line = 0, 0
        self.seen: tuple[int, int] | None = None
        self.started = time.time()
        self.first: int | None = None
        self.names: set[str] = set()
        """Of all numbers that were reported."""

    def carry(self, last: bool = False) -> None:
        """Record what is new.

        Args:
            last: the script has ended: what is half written now stays so.

        Raises:
            DataError: a line that is not as it must be.
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
                if self.path.suffix == ".jsonl":  # its own format: a text is a mistake; others have columns of texts
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
        """Carry the rest."""
        self.carry(last=True)
        self.metrics.close()
