"""Readers of tracked runs, with their numbers, curves and files, for reports.

A report needs thousands of numbers of hundreds of runs. MLflow's client returns them run by run (12 s for 1,000 runs,
after an import of 2 s and more), so the tables are read directly if the store is a database; a server is read through
the client.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

from star.chunks import chunks
from star.errors import LedgerError
from star.sqlite_file import connect_to_read
from star.tracking.writer import KEY_TAG, MLFLOW_EXPERIMENT, REFILL, sqlite_path

DATABASES = ("sqlite", "postgresql", "mysql")
CHUNK = 400
"""Most run ids in one query."""


@dataclass(frozen=True)
class TrackedRun:
    """The MLflow run of one RunSpec."""

    id: str
    experiment_id: str
    artifacts: str
    metrics: dict[str, float]
    """The newest value of each metric."""
    tags: dict[str, str]
    status: str = "FINISHED"


class Reader(Protocol):
    """A store of tracked runs, for reading."""

    def runs(self, bound: Mapping[str, str | None]) -> dict[str, TrackedRun]:
        """Run key -> its MLflow run, if there is one: the run with the given id, or else the oldest."""

    def curves(self, ids: Sequence[str], metric: str) -> dict[str, dict[int, float]]:
        """Curves of a metric: run id -> step -> newest value."""

    def history(self, ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, int, float]]]:
        """Run id -> (time in milliseconds, step, value) of every value that was logged for a metric."""

    def file(self, run: TrackedRun, path: str) -> bytes | None:
        """The content of an attached file; None if it cannot be read."""


def without_password(uri: str) -> str:
    """A URI for messages, without the user and password that it may hold."""
    parts = urlparse(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def _told(error: Exception, uri: str) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].replace(uri, without_password(uri))


def open_reader(uri: str, artifacts: Path | None = None) -> Reader:
    """The reader for a tracking store, by a database's URL or a server's address.

    Args:
        artifacts: folder of the files of a home's own store, instead of recorded paths: the home may have moved.
    """
    return DatabaseReader(uri, artifacts) if uri.split(":")[0].split("+")[0] in DATABASES else ClientReader(uri)


class DatabaseReader:
    """MLflow's tables, as they are since 1.0. Nothing is ever written.

    Raises:
        LedgerError: (by all methods) the database cannot be read.
    """

    def __init__(self, uri: str, artifacts: Path | None = None) -> None:
        from sqlalchemy import NullPool, create_engine

        self.artifacts, path = artifacts, sqlite_path(uri)
        creator = {} if path is None else {"creator": partial(connect_to_read, path)}
        # no connection outlives its query: figures are drawn in forked processes, which must not share one
        self.engine = (
            None if path is not None and not path.exists() else create_engine(uri, poolclass=NullPool, **creator)
        )

    def _ask(self, question: str, **values: Any) -> Sequence[Any]:
        from sqlalchemy import bindparam, text
        from sqlalchemy.exc import SQLAlchemyError

        if self.engine is None:
            return []
        lists = [name for name, value in values.items() if isinstance(value, list)]
        statement = text(question).bindparams(*(bindparam(name, expanding=True) for name in lists))
        try:
            with self.engine.connect() as connection:
                return connection.execute(statement, values).all()
        except SQLAlchemyError as error:
            raise LedgerError(
                f"MLflow's database {self.engine.url.render_as_string()} cannot be read: {str(error).splitlines()[0]}; "
                + (f"{REFILL}." if self.artifacts is not None else "is it a tracking store, and there?")
            ) from None

    def runs(self, bound: Mapping[str, str | None]) -> dict[str, TrackedRun]:
        rows: dict[str, Any] = {}
        for row in self._ask(
            "SELECT t.value AS run_key, r.run_uuid AS id, r.experiment_id AS experiment, r.artifact_uri AS artifacts, "
            "r.status AS status FROM runs r "
            "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = :tag "
            "JOIN experiments e ON e.experiment_id = r.experiment_id AND e.name = :experiment "
            "WHERE r.lifecycle_stage = 'active' ORDER BY r.start_time, r.run_uuid",
            tag=KEY_TAG,
            experiment=MLFLOW_EXPERIMENT,
        ):
            if row.run_key in bound and (row.run_key not in rows or row.id == bound[row.run_key]):
                rows[row.run_key] = row
        ids = [row.id for row in rows.values()]
        metrics: dict[str, dict[str, float]] = {run: {} for run in ids}
        tags: dict[str, dict[str, str]] = {run: {} for run in ids}
        for part in chunks(ids, CHUNK):
            for run, name, value, is_nan in self._ask(
                "SELECT m.run_uuid, m.key, m.value, m.is_nan FROM latest_metrics m WHERE m.run_uuid IN :ids", ids=part
            ):
                metrics[run][name] = _number(value, is_nan)
            for run, name, value in self._ask(
                "SELECT t.run_uuid, t.key, t.value FROM tags t WHERE t.run_uuid IN :ids", ids=part
            ):
                tags[run][name] = value
        return {
            key: TrackedRun(row.id, str(row.experiment), row.artifacts, metrics[row.id], tags[row.id], row.status)
            for key, row in rows.items()
        }

    def curves(self, ids: Sequence[str], metric: str) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for part in chunks(ids, CHUNK):
            for run, step, value, is_nan in self._ask(
                "SELECT m.run_uuid, m.step, m.value, m.is_nan FROM metrics m WHERE m.run_uuid IN :ids AND m.key = :metric "
                "ORDER BY m.step, m.timestamp",
                ids=part,
                metric=metric,
            ):
                found.setdefault(run, {})[step] = _number(value, is_nan)
        return found

    def history(self, ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, int, float]]]:
        found: dict[str, list[tuple[int, int, float]]] = {}
        for part in chunks(ids, CHUNK):
            for run, when, step, value, is_nan in self._ask(
                "SELECT m.run_uuid, m.timestamp, m.step, m.value, m.is_nan FROM metrics m WHERE m.run_uuid IN :ids AND m.key = :metric "
                "ORDER BY m.timestamp, m.step",
                ids=part,
                metric=metric,
            ):
                found.setdefault(run, []).append((int(when), int(step), _number(value, is_nan)))
        return found

    def file(self, run: TrackedRun, path: str) -> bytes | None:
        place = urlparse(run.artifacts)
        if place.scheme not in ("file", ""):
            return _download(run.id, path, None if self.engine is None else self.engine.url.render_as_string(False))
        if self.artifacts is not None:  # a home's own store: the recorded path may be from before it moved
            return _content(self.artifacts / run.id / "artifacts" / path)
        return _content(Path(unquote(place.path)) / path)


class ClientReader:
    """Any store that MLflow's client knows; slower."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        # a user waits for the report: a missing server is reported soon, not after MLflow's eight minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        try:
            self.uri, self.client = uri, MlflowClient(uri)
        except MlflowException as error:
            raise LedgerError(f"MLflow at {without_password(uri)} cannot be used: {_told(error, uri)}") from None

    def runs(self, bound: Mapping[str, str | None]) -> dict[str, TrackedRun]:
        from mlflow.exceptions import MlflowException

        try:
            experiment = self.client.get_experiment_by_name(MLFLOW_EXPERIMENT)
        except MlflowException as error:
            raise LedgerError(
                f"MLflow at {without_password(self.uri)} does not answer: {_told(error, self.uri)}"
            ) from None
        if experiment is None:
            return {}
        found: dict[str, TrackedRun] = {}
        filters = [
            "attributes.run_id IN (" + ", ".join(f"'{run}'" for run in part) + ")"
            for part in chunks([run for run in bound.values() if run], CHUNK)
        ]
        for text in filters:
            found |= {run.tags[KEY_TAG]: run for run in self._search(experiment.experiment_id, text)}
        for key in bound.keys() - found.keys():
            for run in self._search(experiment.experiment_id, f"tags.`{KEY_TAG}` = '{key}'"):
                found.setdefault(key, run)
        return {key: run for key, run in found.items() if key in bound}

    def _search(self, experiment: str, text: str) -> Iterator[TrackedRun]:
        token = None
        while True:
            page = self.client.search_runs([experiment], text, order_by=["attributes.start_time ASC"], page_token=token)
            for run in page:
                info, data = run.info, run.data
                if KEY_TAG in data.tags:
                    yield TrackedRun(
                        info.run_id,
                        info.experiment_id,
                        info.artifact_uri,
                        {name: _number(value) for name, value in data.metrics.items()},
                        dict(data.tags),
                        info.status,
                    )
            token = page.token
            if not token:
                return

    def curves(self, ids: Sequence[str], metric: str) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for run in ids:
            points = sorted(self.client.get_metric_history(run, metric), key=lambda point: point.timestamp)
            if points:
                found[run] = {point.step: _number(point.value) for point in points}
        return found

    def history(self, ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, int, float]]]:
        found = {run: self.client.get_metric_history(run, metric) for run in ids}
        return {
            run: sorted((int(point.timestamp), int(point.step), _number(point.value)) for point in points)
            for run, points in found.items()
            if points
        }

    def file(self, run: TrackedRun, path: str) -> bytes | None:
        return _download(run.id, path, self.uri)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:  # missing or not readable
        return None


def _number(value: float, is_nan: bool = False) -> float:
    """A tracked value; MLflow's databases store infinity as the largest float."""
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


def _download(run_id: str, path: str, uri: str | None) -> bytes | None:
    from tempfile import TemporaryDirectory

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as folder:  # without a given folder MLflow creates one and leaves it behind
        try:
            return Path(MlflowClient(uri).download_artifacts(run_id, path, folder)).read_bytes()
        except (MlflowException, OSError):
            return None
