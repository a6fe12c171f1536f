"""Tables, claims and figures of experiments, as `star-exp report` makes them, cached until their data changes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from star.errors import LedgerError, StarError
from star.ledger.states import DONE
from star.report.claims import ClaimResult
from star.report.evidence import Evidence
from star.report.looks import judge_all
from star.report.table import Agreement, Cell, Row, Table, agreements, build_table
from star.scheduler.recorded import recorded_plan
from star.scheduler.records import record_path
from star.scheduler.rejudged import rejudged
from star.spec.experiment import Experiment
from star.spec.reporting import FigureSpec
from star.sqlite_file import url_of
from star.tracking.reader import Reader, open_reader
from star_board.model import Group, Model

KEPT = 24
"""Most experiments whose results are kept in memory."""
LAG = 4.0
"""Seconds after which numbers are read again while jobs run or have just ended: the tracker lags behind the ledger."""
SETTLED = 30.0
"""Seconds after the last change from which no new numbers are expected."""
CALM = 60.0
"""Seconds after which even settled numbers are read again: more may have been logged to the tracker."""
AWAY = 15.0
"""Seconds for which a tracker that did not answer is not read again."""
_drawing = threading.Lock()
"""matplotlib can draw only one figure at a time."""


@dataclass
class Results:
    """The results of one experiment: numbers, table, claims and figures."""

    evidence: Evidence
    table: Table | None
    judgements: list[ClaimResult]
    agreement: list[Agreement]
    pictures: dict[str, bytes | None] = field(default_factory=dict)
    """Figure name -> PNG; None while nothing is measured."""

    @property
    def experiment(self) -> Experiment:
        return self.evidence.experiment

    def row(self, label: str) -> Row | None:
        """The table's row with this label; None if there is none."""
        return next((row for row in self.table.rows if row.label == label), None) if self.table else None

    def cell(self, row: Row, title: str) -> Cell | None:
        """The cell of a row under the column with this title; None if there is no such column."""
        assert self.table is not None
        titles = [column.title for column in self.table.columns]
        return row.cells[titles.index(title)] if title in titles else None

    def figure(self, name: str) -> bytes | None:
        """A figure's PNG; None if there is no such figure or nothing is measured yet."""
        found: FigureSpec | None = next((one for one in self.experiment.spec.figures if one.name == name), None)
        if found is not None and name not in self.pictures:
            from star.report.figures import draw
            from star.report.figures.style import as_png, close

            with _drawing:
                drawn = draw(found, self.evidence, self.table)
                self.pictures[name] = None if drawn is None else as_png(drawn)
                if drawn is not None:
                    close(drawn)
        return self.pictures.get(name)


class Shelf:
    """Cache of results by experiment, read again when they may have changed."""

    def __init__(self, model: Model, tracking_uri: str) -> None:
        self.model, self.uri = model, tracking_uri
        self._held: OrderedDict[tuple[str, str], tuple[tuple[object, ...], float, Results | str]] = OrderedDict()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._reader: Reader | None = None
        self._away, self._away_until = "", 0.0

    def of(self, group: Group) -> Results | str:
        """The results of an experiment, or why there are none to show."""
        lock = self._locks.setdefault(group.address, threading.Lock())
        with lock:  # many requests at once, one read
            with self.model.lock:
                summary = self.model.summary(group)
                states = (summary["states"].total(), summary[DONE], summary["changed"])
            sign = (*states, written(record_path(self.model.home, *group.address)))
            held = self._held.get(group.address)
            if held and held[0] == sign:
                calm = _is_settled(summary) and isinstance(held[2], Results)
                if time.monotonic() - held[1] < (CALM if calm else LAG):
                    return held[2]
            found = self._away if time.monotonic() < self._away_until else self._read(group)
            if isinstance(found, Results) and held and isinstance(held[2], Results) and held[0][-1] == sign[-1]:
                if found.evidence.tracked == held[2].evidence.tracked:  # of the same figures the same numbers
                    found.pictures = held[2].pictures
            self._held[group.address] = (sign, time.monotonic(), found)
            self._held.move_to_end(group.address)
            while len(self._held) > KEPT:
                self._held.popitem(last=False)
            return found

    def reader(self) -> Reader:
        """The reader of the tracking store; for SQLite it is opened again each time, since the store may be new."""
        if self._reader is None or self.uri.startswith("sqlite"):  # a store that was missing may exist now
            own = self.uri == url_of(self.model.home.mlflow)
            self._reader = open_reader(self.uri, self.model.home.artifacts if own else None)
        return self._reader

    def _read(self, group: Group) -> Results | str:
        try:
            plan = recorded_plan(self.model.home, group.name, group.profile)
            if plan is None:
                return "The home has no record of this experiment's table; `star-exp run` of its file writes one."
            changed = rejudged(self.model.home, plan.experiment)
            evidence = Evidence(plan, self.model.ledger, self.reader(), changed)
            table = build_table(evidence) if plan.experiment.spec.table else None
            return Results(evidence, table, judge_all(evidence), agreements(table) if table else [])
        except LedgerError as error:  # the tracker does not answer: other requests need not wait for it too
            self._away, self._away_until = str(error), time.monotonic() + AWAY
            return self._away
        except StarError as error:
            return str(error)


def written(path: Path) -> int:
    """When a file was last written, in ns; 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_settled(summary: Mapping[str, Any]) -> bool:
    return not summary["running"] and time.time() - summary["changed"] > SETTLED


def attention_picture(file: Path) -> bytes:
    """One model's attention maps by layer as PNG; drawn once for each version of the file."""
    return _attention_picture(file, written(file))


@lru_cache(maxsize=64)
def _attention_picture(file: Path, version: int) -> bytes:
    from star.report.figures.arrays import attention_of
    from star.report.figures.style import as_png, close

    with _drawing:
        drawn = attention_of(file.read_bytes())
        try:
            return as_png(drawn)
        finally:
            close(drawn)


def warm_up() -> None:
    """Import the modules that figures need, before the first figure is requested."""
    with _drawing:
        import star.report.figures.ablation
        import star.report.figures.arrays
        import star.report.figures.curves  # noqa: F401
