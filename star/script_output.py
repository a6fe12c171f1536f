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
from star.metric_log import MetricLog
from star.rundir import JobDir, write_json
from star.spec.scripts import MOST_STEPS, ScriptStage, mlflow_takes

log = logging.getLogger("star.worker")


def results_of(script: ScriptStage, stage: str, path: Path, printed: str) -> dict[str, float]:
    """Return the declared numbers that a script ended with, by name.

    Args:
        path: the script's results file.
        printed: what the script printed; it is searched instead where the script declares patterns.

    Raises:
        StarError: the file is missing or is no JSON mapping of names to numbers, or a declared number is missing.
    """
    what = f"stages.{stage}.results"
    if script.patterns:
        return _found(script.patterns, printed, what)
    if not script.results and not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise StarError(
            f"{what}: the command ended without writing {path.name}; write the numbers there as JSON, such as "
            f'{{"{next(iter(script.results))}": 0.5}}, into the folder that it is given as {{out}}, or name its own file as results_file.'
        ) from None
    except IsADirectoryError:
        raise StarError(f"{what}: {path.name} is a folder; write a file of JSON there.") from None
    except (ValueError, RecursionError) as error:
        raise StarError(f"{what}: {path.name} is not JSON: {error}; write a mapping of names to numbers.") from None
    if not isinstance(found, dict):
        raise StarError(f"{what}: {path.name} holds no mapping of names to numbers.")
    try:
        numbers = {name: float(value) for name, value in found.items() if _is_number(value)}
    except OverflowError:
        raise StarError(f"{what}: {path.name} holds a whole number that is too large for a result.") from None
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


def _found(patterns: Mapping[str, str], text: str, what: str) -> dict[str, float]:
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


def printed(path: Path, start: int, call: str, most: int | None = None) -> str:
    """What a command printed: what the log holds from byte `start` on, and after `call`, which may reach the log late (as through srun).

    Args:
        most: bytes of its end that are read; None for all.
    """
    with suppress(OSError), path.open("rb") as file:
        file.seek(start if most is None else max(start, file.seek(0, os.SEEK_END) - most))
        text = file.read().decode(errors="replace")
        before, called, after = text.partition(f"{call}\n")
        return after if called else before
    return ""


def last_line(text: str) -> str:
    """Return the last line of what was printed, up to 300 characters; empty lines do not count."""
    said = (line.strip()[:300] for line in reversed(text[-4096:].splitlines()) if line.strip())
    return next(said, "it printed nothing")


NOT_AS_DECLARED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    IsADirectoryError,
    csv.Error,
)
"""What reading a curves file raises that is not in the required form."""


def _as_number(value: object) -> float | None:
    """A number, or a text that is one, as files of CSV have and NumPy's numbers become in JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


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
        self.next_reading = 0.0
        self.started = time.time()
        self.first: int | None = None
        self.names: set[str] = set()
        """Names of all numbers that were reported."""
        self.left_out: dict[str, tuple[object, int]] = {}
        """What was not recorded, for people -> the first example, and how often."""

    def carry(self, last: bool = False, whole: bool = False) -> None:
        """Record what the script has added since the last call.

        Args:
            last: whether the script has ended, so that a file that is half written stays so.
            whole: whether a last line without its end counts.

        Raises:
            DataError: an entry is not in the required form.
        """
        try:
            state = self.path.stat()
        except OSError:
            return
        if not last and (self.seen == (state.st_size, state.st_mtime_ns) or time.monotonic() < self.next_reading):
            return
        began = time.monotonic()
        if self.path.suffix != ".jsonl":  # read again as a whole
            self.line = 0
            self.left_out.clear()
        try:
            for entry in self._entries(whole):
                self._record(entry)
        except NOT_AS_DECLARED as error:
            if not last and self.path.suffix != ".jsonl":
                return  # it is being written
            where = f"{self.path.name}:{self.line}" if self.line else self.path.name
            raise DataError(
                f'{where}: is not as {{"step": 3, "loss": 0.5}}: {type(error).__name__}: {error}.'
                if self.path.suffix != ".csv"
                else f"{where}: is not as a header `step,loss` and lines `3,0.5`: {error}."
            ) from None
        self.seen = (state.st_size, state.st_mtime_ns)
        if self.path.suffix != ".jsonl":  # a long file takes long each time: the script wants the core
            self.next_reading = began + 10 * (time.monotonic() - began)

    def _entries(self, whole: bool) -> Iterable[dict[str, Any]]:
        if self.path.suffix == ".csv":
            return self._rows(whole)
        if self.path.suffix == ".json":
            found = json.loads(self.path.read_text())
            return list(found["log_history"] if isinstance(found, dict) else found)
        return self._new_lines(whole)

    def _rows(self, whole: bool) -> Iterable[dict[str, Any]]:
        text = self.path.read_text(encoding="utf-8-sig")
        rows = csv.reader((text if whole else text.rpartition("\n")[0]).splitlines())  # the last may be half written
        names = [name.strip() for name in next(filter(None, rows), [])]
        if not names:
            return
        self.line = 1
        if "step" not in names:
            raise ValueError(f"it has no column step; it has {', '.join(names)}")
        for cells in rows:
            self.line += 1
            if cells:
                yield dict(zip(names, (cell.strip() for cell in cells), strict=False))

    def _new_lines(self, whole: bool) -> Iterable[dict[str, Any]]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n") and not (whole and line.strip()):
                    return
                self.offset += len(line)
                self.line += 1
                yield json.loads(line)

    def _record(self, entry: dict[str, Any]) -> None:
        number = _as_number(entry["step"])
        if number is None or not 0 <= number < MOST_STEPS or number % 1:
            raise ValueError(f"the step {entry['step']!r} is no whole number from 0 to 2^63")
        step = int(number)
        numbers: dict[str, float] = {}
        for name, value in entry.items():
            if name in ("step", "of") or value in (None, ""):
                continue
            if not mlflow_takes(str(name)):
                self._leave_out(f"{name!r}, which is no name that MLflow takes", value)
            elif (number := _as_number(value)) is not None:
                numbers[name] = number
            elif self.path.suffix == ".jsonl" and not isinstance(value, bool):  # other formats have columns of texts
                raise ValueError(f"{name} is {value!r}, which is no number")
            else:
                self._leave_out(f"values of {name} that are no numbers", value)
        self.names |= set(numbers)
        if numbers:
            self.metrics.record(step, numbers)
        if _is_number(entry.get("of")):
            now = time.time()
            self.first = step if self.first is None else self.first
            rate = (step - self.first) / max(1e-9, now - self.started)
            progress = {"done": step, "total": int(entry["of"]), "rate": rate, "time": now}
            with suppress(OSError):  # a disk that is full or away for a moment: nothing depends on this file
                write_json(self.progress, progress, durable=False)

    def _leave_out(self, what: str, value: object) -> None:
        first, count = self.left_out.get(what, (value, 0))
        self.left_out[what] = (first, count + 1)

    def close(self, whole: bool = True) -> None:
        """Record what is left and close the metrics.

        Args:
            whole: whether the script ended well, so that a last line without its end is not one that was cut off.

        Raises:
            DataError: an entry is not in the required form.
        """
        self.carry(last=True, whole=whole)
        for what, (example, count) in self.left_out.items():
            log.warning("%s: left out: %s (%d times, first %.40r)", self.path.name, what, count, example)
        self.metrics.close()
