"""The MLflow side of `record()`: one MLflow run per RunSpec, found again by its key, so that nothing is logged twice."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MLFLOW_EXPERIMENT = "star"
KEY_TAG = "star.run"
SQLITE = "sqlite:///"
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100


class Tracker:
    """An MLflow tracking store.

    Args:
        uri: such as sqlite:///runs/mlflow.sqlite, or the address of a server.
        artifacts: where files go when the store is a local database; None leaves it to the server.
    """

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        import logging

        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would break the live view
        from mlflow import MlflowClient

        for name in (
            "mlflow",
            "alembic",
        ):  # their INFO lines would break the live view; importing mlflow sets its own level
            logging.getLogger(name).setLevel(logging.WARNING)
        if uri.startswith(SQLITE):
            _make_store(Path(uri.removeprefix(SQLITE)))
        self.client = MlflowClient(uri)
        self.experiment = self._experiment(artifacts.resolve().as_uri() if artifacts else None)

    def _experiment(self, location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(MLFLOW_EXPERIMENT)
        if found:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(MLFLOW_EXPERIMENT, artifact_location=location))
        except MlflowException:  # another scheduler may have made it meanwhile
            found = self.client.get_experiment_by_name(MLFLOW_EXPERIMENT)
            if found is None:
                raise
            return str(found.experiment_id)

    def find(self, run_key: str, bound: str | None) -> Any | None:
        """The MLflow run of a RunSpec, or None: the one with the id `bound` where it is there, or else the oldest.

        A scheduler that is killed before it discards its surplus run leaves several.
        """
        found = self.client.search_runs(
            [self.experiment],
            filter_string=f"tags.`{KEY_TAG}` = '{run_key}'",
            order_by=["attributes.start_time ASC"],
        )
        return next((run for run in found if run.info.run_id == bound), found[0] if found else None)

    def create(self, run_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """A new MLflow run, with its resolved spec as parameters and as the file spec.yaml; returns its id."""
        import yaml
        from mlflow.entities import Param

        run = self.client.create_run(self.experiment, run_name=name, tags={KEY_TAG: run_key, **tags})
        self.client.log_text(run.info.run_id, yaml.safe_dump(dict(params), sort_keys=False), "spec.yaml")
        entries = [Param(key, str(value)) for key, value in flattened(params).items()]
        for first in range(0, len(entries), PARAMS_PER_CALL):
            self.client.log_batch(run.info.run_id, params=entries[first : first + PARAMS_PER_CALL])
        return str(run.info.run_id)

    def discard(self, run_id: str) -> None:
        """Take away a run that turned out to be one too many."""
        self.client.delete_run(run_id)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        for key, value in tags.items():
            self.client.set_tag(run_id, key, value)

    def log(self, run_id: str, entries: Iterable[tuple[float, int, Mapping[str, float]]]) -> None:
        """Log (time in seconds, step, metrics). The same entry twice is one entry: time, step and value are its identity."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(when * 1000), step)
            for when, step, values in entries
            for name, value in values.items()
        ]
        for first in range(0, len(metrics), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + METRICS_PER_CALL])

    def add_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Attach a file."""
        self.client.log_artifact(run_id, str(path), folder)

    def add_text(self, run_id: str, text: str, path: str) -> None:
        """Attach a text as a file."""
        self.client.log_text(run_id, text, path)

    def set_status(self, run_id: str, status: str) -> None:
        """One of RUNNING, SCHEDULED, FINISHED, FAILED, KILLED; a run that has ended so already keeps the time of its end."""
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        elif self.client.get_run(run_id).info.status != status:
            self.client.set_terminated(run_id, status)


def _make_store(path: Path) -> None:
    """Make a SQLite store whose tables are complete when it appears under its name.

    MLflow makes them by dozens of migrations that are no transaction: a kill in the middle, or two schedulers at a time,
    would leave a store that nobody can open again.
    """
    from mlflow import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new-{os.getpid()}-{time.monotonic_ns()}")  # MLflow never opens one name twice
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for left in path.parent.glob(f"{path.name}.new-*"):
                left.unlink(missing_ok=True)
            MlflowClient(f"{SQLITE}{new}").search_experiments(max_results=1)
            os.replace(new, path)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
