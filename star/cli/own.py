"""`star-exp log`: adds the user's own numbers to runs and jobs."""

from __future__ import annotations

import csv
import math
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from star.cli.status import look
from star.cli.store import check_tracking, connect, existing_ledger, reader_of
from star.errors import NotFoundError, SpecError, StarError
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home, JobDir
from star.scheduler import own
from star.scheduler.reindex import deliver
from star.words import counted, shown

LONGEST, DIGITS = 240, 18
"""Most characters of a name, and most digits of a step, that MLflow and its databases hold."""
KEY, STEP = "key", "step"
"""Columns of a table that are not numbers to log."""


@dataclass(frozen=True)
class Numbers:
    """Numbers to log for one run or job at one step."""

    key: str
    step: int
    values: dict[str, float]
    where: str
    """Where the value was given (a file and its line, or the command line), for messages."""


def log_numbers(path: Path, key: str | None, pairs: Sequence[str], step: int, table: Path | None) -> None:
    """Write numbers into the jobs' folders, then carry them to MLflow."""
    if (key is None) == (table is None):
        raise SpecError("log: give KEY and NAME=VALUE, such as `star-exp log 3f2a my/score=0.5`, or --from TABLE.csv.")
    rows = [_given(key, pairs, step)] if key is not None else list(_rows(table or Path(), pairs, step))
    look(path)
    home = Home(path)
    existing_ledger(home)
    home.begin()
    check_tracking(home)
    ledger = open_ledger(home)
    places = [_place(home, ledger, row) for row in rows]  # all are looked up before anything is written
    _refuse_twice(rows, places)
    together: dict[tuple[Path, str | None], list[own.Entry]] = {}
    for row, (folder, run) in zip(rows, places, strict=True):
        together.setdefault((folder.path, run), []).extend(own.now(row.step, row.values))
    for (path, run), entries in together.items():
        own.write(JobDir(path), run, entries)
    for name in sorted({name for row in rows for name in row.values}):
        kept = {(folder.path, run) for row, (folder, run) in zip(rows, places, strict=True) if name in row.values}
        runs = sum(run is not None for _, run in kept)
        told = [counted(runs, "run")] if runs else []
        told += [counted(len(kept) - runs, "job")] if len(kept) > runs else []
        click.echo(f"logged {name} for {' and '.join(told)}; a table names it mlflow:{name}")
    jobs = {folder.path.name.rpartition("-")[2] for folder, _ in places}
    try:
        deliver(home, ledger, lambda: connect(home), jobs=jobs)
    except Exception as error:  # a tracker that does not answer may raise anything; the numbers are in the folders
        reason = str(error).splitlines()[0]
        click.echo(f"warning: MLflow does not have it yet ({reason}); `star-exp reindex` carries it there.", err=True)


def _refuse_twice(rows: Sequence[Numbers], places: Sequence[tuple[JobDir, str | None]]) -> None:
    """Check that no number is given two values at one step.

    Raises:
        SpecError: one is.
    """
    known: dict[tuple[Path, str | None, int, str], str] = {}
    for row, (folder, run) in zip(rows, places, strict=True):
        for name in row.values:
            before = known.setdefault((folder.path, run, row.step, name), row.where)
            if before != row.where:
                raise SpecError(
                    f"{row.where}: {name} of {row.key} at step {row.step} stands at {before} too; keep one, or give each its `step`."
                )


def _given(key: str, pairs: Sequence[str], step: int) -> Numbers:
    if not pairs and "=" in key:
        raise SpecError(f"log {key}: of which run? Give its KEY first, such as `star-exp log 3f2a {key}`.")
    if not pairs:
        raise SpecError(f"log {key}: give at least one NAME=VALUE, such as my/score=0.5.")
    values = {}
    for pair in pairs:
        name, equals, text = pair.rpartition("=")
        if not equals:
            raise SpecError(f"log: {pair!r} is no NAME=VALUE; write it as my/score=0.5.")
        if _name(name, pair) in values:
            raise SpecError(f"log: {name} is given twice; keep one, or give each its --step.")
        values[name] = _number(text, pair)
    return Numbers(key, step, values, f"log {key}")


def _text(table: Path) -> str:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"--from {shown(table)}: is not UTF-8 text; save it as that.") from None
    except OSError as error:
        raise SpecError(f"--from {shown(table)}: cannot be read: {error.strerror}; give a table in CSV.") from None
    if KEY not in (head := (text.splitlines() or [""])[0]).split(",") and ";" in head:
        raise SpecError(f"--from {shown(table)}:1: has its columns between semicolons; separate them by commas.")
    return text


def _rows(table: Path, pairs: Sequence[str], default: int) -> Iterator[Numbers]:
    if pairs:
        raise SpecError(f"log: {pairs[0]!r} and --from; the table's columns are the numbers, leave the others out.")
    text = _text(table)
    if max(map(len, text.splitlines()), default=0) > csv.field_size_limit():
        raise SpecError(f"--from {shown(table)}: a line is longer than any table of numbers has; is it one?")
    reader = csv.DictReader(text.splitlines())
    names = [name for name in reader.fieldnames or () if name not in (KEY, STEP)]
    if KEY not in (reader.fieldnames or ()) or not names:
        raise SpecError(
            f"--from {shown(table)}:1: has the columns {', '.join(reader.fieldnames or ()) or 'none'}; it needs `key`, of a run "
            "or a job, and one for each number; `step` is taken where it is there."
        )
    for name in names:
        _name(name, f"{shown(table)}:1")
    twice = next((name for name in reader.fieldnames or () if (reader.fieldnames or []).count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"{shown(table)}:1: has two columns {shown(twice)!r}; keep one.")
    found = 0
    for row in reader:
        where = f"{shown(table)}:{reader.line_num}"
        if None in row or any(value is None for value in row.values()):
            raise SpecError(f"{where}: has not as many fields as the first line.")
        step = row.get(STEP) or str(default)
        if not (step.isascii() and step.isdecimal() and len(step) <= DIGITS):
            raise SpecError(f"{where}: step: {shown(step)!r} is no whole number from 0 on.")
        values = {name: _number(row[name], f"{where}: {name}") for name in names if row[name].strip()}
        if values:
            found += 1
            yield Numbers(row[KEY].strip(), int(step), values, where)
    if not found:
        raise SpecError(f"--from {shown(table)}: holds no number.")


def _name(name: str, where: str) -> str:
    head = name.split("/")[0]
    if head in own.reserved():
        raise SpecError(
            f"{where}: {name!r} begins as the platform's own numbers do ({', '.join(own.reserved())}); choose another, such as my/{name}."
        )
    path = posixpath.normpath(name) == name and not name.startswith(("/", "..")) and name != "."
    letters = name == name.strip() and all(letter.isalnum() or letter in "_-. /:" for letter in name)
    if not name or not path or not letters or len(name) > LONGEST:
        raise SpecError(
            f"{where}: {shown(name)!r} is no name that MLflow takes: at most {LONGEST} letters, digits, _ - . : and spaces inside, in "
            "parts with one / between them."
        )
    return name


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpecError(f"{where}: {text!r} is no finite number.")
    return value


def _place(home: Home, ledger: Ledger, row: Numbers) -> tuple[JobDir, str | None]:
    """The folder that keeps these numbers, and the key of their run; None if they are for all runs of a job."""
    try:
        kind, key = ledger.resolve(row.key)
    except StarError as error:
        raise NotFoundError(f"{row.where}: {error}") from None
    if kind == "run":
        folder, run = own.keeper(home, ledger.runs.of([key])[key].stages), key
    else:
        folder, run = home.job(ledger.jobs.of([key])[key].stage, key), None
    if folder is None or not folder.path.is_dir():
        raise NotFoundError(f"{row.where}: nothing of {kind} {key} is computed yet, so there is nothing to measure.")
    return folder, run


def take_over(home: Home, ledger: Ledger, runs: dict[str, dict[str, str]]) -> None:
    """Copy numbers that were logged only to MLflow into the jobs' folders; print a warning if that is not possible.

    Args:
        runs: key of a run -> stage -> key of its job.
    """
    try:
        reader = reader_of(home)
        tracked = reader.runs(ledger.runs.tracking_ids(runs))
        own.adopt(home, runs, tracked, reader)
        left = sum(map(len, own.unseen(home, runs, tracked, reader).values()))
    except StarError as error:
        click.echo(f"warning: what was logged to MLflow alone stays there: {error}", err=True)
        return
    if left:
        click.echo(
            f"warning: {left} numbers of one's own are in MLflow alone: {shown(home.path)} cannot be written, or holds no job of "
            "their runs.",
            err=True,
        )
