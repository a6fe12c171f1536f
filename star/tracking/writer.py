"""The MLflow side of `record()`: one MLflow run per RunSpec, found by its key, so that nothing is logged twice."""

from __future__ import annotations

import atexit
import fcntl
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sqlalchemy import make_url

from star.errors import DamagedError, LedgerError
from star.sqlite_file import connect_to_read, folder_in_memory, is_damage, url_of
from star.words import shown

MLFLOW_EXPERIMENT = "star"
KEY_TAG = "star.run"
USED_BY = "star.experiment."
"""Prefix of tags: name of an experiment that uses the run -> the row's label there."""
OF_JOB = "star.job."
"""Prefix of tags: name of a user's number that was logged to a job -> the job's stage and key."""
SQLITE = "sqlite:///"
TABLES = ("experiments", "runs", "tags", "metrics", "latest_metrics")
"""Tables of a tracking store that reports read."""
REFILL = "`star-exp reindex --mlflow` puts it aside and fills a new one from the jobs' folders"
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100


class Tracker:
    """An MLflow tracking store, for writing.

    Args:
        uri: such as sqlite:///runs/mlflow.sqlite, or the address of a server.
        artifacts: folder for files if the store is a local database; None leaves that to the server.
    """

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would break the live view
        from mlflow import MlflowClient

        for name in (
            "mlflow",
            "alembic",
        ):  # their INFO lines would break the live view; importing mlflow sets its own level
            logging.getLogger(name).setLevel(logging.WARNING)
        path = sqlite_path(uri)
        location = artifacts.resolve().as_uri() if artifacts else None
        if path is not None:
            check_store(path)
            _make_store(path)
            if location is not None:
                _adopt(path, location)
            uri = url_of(_plain(path))
        self.client = MlflowClient(uri)
        self.experiment = self._experiment(location)

    def _experiment(self, location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(MLFLOW_EXPERIMENT)
        if found:
            if found.lifecycle_stage == "deleted":  # in MLflow's UI; its content is needed again
                sys.stderr.write(f"MLflow's experiment {MLFLOW_EXPERIMENT} was deleted there; it is restored\n")
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(MLFLOW_EXPERIMENT, artifact_location=location))
        except MlflowException:  # another scheduler may have created it meanwhile
            found = self.client.get_experiment_by_name(MLFLOW_EXPERIMENT)
            if found is None:
                raise
            return str(found.experiment_id)

    def find(self, run_key: str, bound: str | None) -> Any | None:
        """The MLflow run of a RunSpec: the one with the id `bound` if it exists, or else the oldest; None without any.

        There may be several if a scheduler was killed before it discarded its surplus run. If the bound run was deleted
        in MLflow's UI, it is restored, because its content is needed again.
        """
        from mlflow.entities import ViewType

        found = self.client.search_runs(
            [self.experiment],
            filter_string=f"tags.`{KEY_TAG}` = '{run_key}'",
            order_by=["attributes.start_time ASC"],
            run_view_type=ViewType.ALL,
        )
        mine = next((run for run in found if run.info.run_id == bound), None)
        if mine is not None and mine.info.lifecycle_stage == "deleted":
            sys.stderr.write(f"MLflow's run {mine.info.run_name} was deleted there; it is restored\n")
            self.client.restore_run(mine.info.run_id)
        return mine or next((run for run in found if run.info.lifecycle_stage == "active"), None)

    def create(self, run_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create an MLflow run, with its resolved spec as parameters and as the file spec.yaml; returns its id."""
        run = self.client.create_run(self.experiment, run_name=name, tags={KEY_TAG: run_key, **tags})
        self.complete(str(run.info.run_id), params, {})
        return str(run.info.run_id)

    def complete(self, run_id: str, params: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Give a run its resolved spec if whoever created it was killed between two calls.

        Args:
            known: the parameters that it has.
        """
        import yaml
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in flattened(params).items()]
        if len(known) >= len(entries) or len(known) % PARAMS_PER_CALL:
            return  # whole, also where an older version knew fewer fields
        self.client.log_text(run_id, yaml.safe_dump(dict(params), sort_keys=False), "spec.yaml")
        entries = [
            entry for entry in entries if entry.key not in known
        ]  # MLflow takes no other value of one that it has
        for first in range(0, len(entries), PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=entries[first : first + PARAMS_PER_CALL])

    def discard(self, run_id: str) -> None:
        """Delete a surplus run."""
        self.client.delete_run(run_id)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        for key, value in tags.items():
            self.client.set_tag(run_id, key, value)

    def log(self, run_id: str, entries: Iterable[tuple[float, int, Mapping[str, float]]]) -> None:
        """Log entries of (time in seconds, step, metrics); entries of equal time, step and value are stored once."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(when * 1000), step)
            for when, step, values in entries
            for name, value in values.items()
        ]
        for first in range(0, len(metrics), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + METRICS_PER_CALL])

    def history(self, run_id: str, name: str) -> list[tuple[float, float]]:
        """(time in seconds, value) of all entries of a metric."""
        return [(one.timestamp / 1000, one.value) for one in self.client.get_metric_history(run_id, name)]

    def add_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Attach a file to a run, in `folder` of its artifacts if given."""
        self.client.log_artifact(run_id, str(path), folder)

    def add_text(self, run_id: str, text: str, path: str) -> None:
        """Attach a text to a run, as the file `path` of its artifacts."""
        self.client.log_text(run_id, text, path)

    def set_status(self, run_id: str, status: str) -> None:
        """Set the status RUNNING, SCHEDULED, FINISHED, FAILED or KILLED; the same final status keeps its end time."""
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        elif self.client.get_run(run_id).info.status != status:
            self.client.set_terminated(run_id, status)


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other store."""
    if not uri.startswith(SQLITE):
        return None
    database = make_url(uri).database
    return Path(database) if database else None


def check_store(path: Path) -> None:
    """Check that a SQLite file, if it exists, is a tracking store of the installed MLflow, without importing MLflow.

    Raises:
        LedgerError: it cannot be read, is damaged, or is of another program or version; the message says the remedy.
    """
    if not path.exists():
        return
    try:
        if not path.is_file():
            raise sqlite3.DatabaseError("it is no file")
        connection = connect_to_read(path)
        try:
            version = connection.execute("select version_num from alembic_version").fetchone()
            for table in TABLES:
                connection.execute(f"select 1 from {table} limit 1")
        finally:
            connection.close()
    except sqlite3.Error as error:
        if path.is_file() and not is_damage(str(error)):  # locked or not readable: not damaged
            raise LedgerError(f"MLflow's database {shown(path)} cannot be read now: {error}; try again.") from None
        raise DamagedError(f"MLflow's database {shown(path)} is damaged ({error})", REFILL) from None
    known = _migrations()
    if version is None or (known and version[0] not in known):
        own = importlib.metadata.version("mlflow")
        schema = f"schema {version[0]}" if version else "no schema's name"
        raise DamagedError(
            f"MLflow's database {shown(path)} has {schema}, which the installed MLflow {own} does not know",
            f"install the one that wrote it, or {REFILL}",
        )


def _migrations() -> set[str]:
    """Schema versions that the installed MLflow knows, from the file names of its migrations; empty if not found."""
    found = importlib.util.find_spec("mlflow")
    folders = found.submodule_search_locations if found is not None else None
    versions = Path(folders[0]) / "store" / "db_migrations" / "versions" if folders else None
    return (
        {path.name.partition("_")[0] for path in versions.glob("*_*.py")} if versions and versions.is_dir() else set()
    )


def _plain(path: Path) -> Path:
    """The same file by a path without characters that a URL escapes: MLflow does not decode them everywhere."""
    if url_of(path) == f"{SQLITE}{path}":
        return path
    folder = Path(tempfile.mkdtemp(prefix="star-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "home").symlink_to(path.parent.absolute())
    return folder / "home" / path.name


def _adopt(path: Path, location: str) -> None:
    """Point the artifact paths of a moved or copied home to its own files."""
    connection = sqlite3.connect(path, timeout=30)
    try:
        with connection:
            asked = "select experiment_id, artifact_location from experiments where name = ?"
            for experiment, old in connection.execute(asked, (MLFLOW_EXPERIMENT,)).fetchall():
                if old == location or urlparse(old).scheme not in ("file", ""):  # a server's files are where it says
                    continue
                connection.execute(
                    "update experiments set artifact_location = ? where experiment_id = ?", (location, experiment)
                )
                connection.execute(
                    "update runs set artifact_uri = ? || substr(artifact_uri, ?) where experiment_id = ? and "
                    "substr(artifact_uri, 1, ?) = ?",
                    (location, len(old) + 1, experiment, len(old) + 1, f"{old}/"),
                )
    finally:
        connection.close()


def _make_store(path: Path) -> None:
    """Create a SQLite store, under its name only when its tables are complete.

    MLflow creates them by dozens of migrations without a transaction: a kill in the middle, or two schedulers at
    a time, would leave a store that cannot be opened again. In memory, because each change waits for the disk: seconds.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = folder_in_memory() / path.name  # a new name each time: MLflow never opens one twice
            # not by its client, which would put the current folder into SQL, where a quote in its name breaks
            SqlAlchemyStore(url_of(made), (path.absolute().parent / "mlartifacts").as_uri())
            with made.open("rb") as source, new.open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
            os.replace(new, path)
            shutil.rmtree(made.parent, ignore_errors=True)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
