"""What reports are told of tracked runs, the same by every reader: MLflow's database, and a real server."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from star.errors import LedgerError
from star.tracking.reader import Reader, TrackedRun, open_reader
from star.tracking.writer import Tracker
from tests.helpers import empty_tracking_store
from tests.services import MlflowServer


@dataclass
class Store:
    """A tracking store, written and read."""

    tracker: Tracker
    reader: Reader

    def run(self, key: str) -> TrackedRun:
        return self.reader.runs({key: None})[key]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    started = MlflowServer(tmp_path_factory.mktemp("tracking") / "server")
    yield started
    started.stop()


@pytest.fixture(params=["database", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "server":
        uri = request.getfixturevalue("server").uri
        return Store(Tracker(uri, None), open_reader(uri))
    shutil.copy(empty_tracking_store(), tmp_path / "mlflow.sqlite")
    uri = f"sqlite:///{tmp_path / 'mlflow.sqlite'}"
    return Store(Tracker(uri, tmp_path / "with blank"), open_reader(uri))


def key(request: pytest.FixtureRequest) -> str:
    """A run key that no other test uses: the server is shared."""
    return request.node.name


def test_numbers_and_tags(store: Store, request: pytest.FixtureRequest) -> None:
    made = store.tracker.create(key(request), "a", {"p": 1}, {"star.key.train": "abc"})
    store.tracker.log(made, [(1.0, 0, {"probe/accuracy": 0.5, "train/val_nll": math.nan, "train/loss": math.inf})])
    found = store.run(key(request))
    assert found.id == made and found.metrics["probe/accuracy"] == 0.5 and math.isnan(found.metrics["train/val_nll"])
    assert found.metrics["train/loss"] == math.inf
    assert found.tags["star.key.train"] == "abc" and found.tags["star.run"] == key(request)
    assert found.experiment_id == store.tracker.experiment


def test_the_newest_value_counts(store: Store, request: pytest.FixtureRequest) -> None:
    """A result made again by `rerun`: same step, later."""
    made = store.tracker.create(key(request), "a", {}, {})
    store.tracker.log(made, [(2.0, 0, {"probe/accuracy": 0.6}), (1.0, 0, {"probe/accuracy": 0.5})])
    store.tracker.log(
        made, [(2.0, 7, {"probe/curve": 0.6}), (1.0, 7, {"probe/curve": 0.5}), (1.0, 9, {"probe/curve": 0.7})]
    )
    assert store.run(key(request)).metrics["probe/accuracy"] == 0.6
    assert store.reader.curves([made], "probe/curve") == {made: {7: 0.6, 9: 0.7}}
    assert store.reader.curves([made], "probe/none") == {}


def test_a_history_is_all_that_was_logged(store: Store, request: pytest.FixtureRequest) -> None:
    made = [store.tracker.create(key(request), "a", {}, {}) for _ in range(2)]
    store.tracker.log(made[0], [(2.0, 7, {"my/score": 0.6}), (1.0, 7, {"my/score": 0.5}), (3.5, 0, {"my/score": 0.5})])
    store.tracker.log(made[1], [(1.0, 1, {"other": 1.0})])
    assert store.reader.history(made, "my/score") == {made[0]: [(1000, 7, 0.5), (2000, 7, 0.6), (3500, 0, 0.5)]}
    assert store.reader.history([], "my/score") == {} == store.reader.history(made, "none")


def test_of_several_runs_the_bound_one_counts_else_the_oldest(store: Store, request: pytest.FixtureRequest) -> None:
    name = key(request)
    first, second, gone = (store.tracker.create(name, "a", {}, {}) for _ in range(3))
    store.tracker.discard(gone)
    assert store.reader.runs({name: second})[name].id == second
    for bound in (None, "not there", gone):
        assert store.reader.runs({name: bound})[name].id == first
    assert store.reader.runs({"nobody": None}) == {}


def test_files(store: Store, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = store.tracker.create(key(request), "a", {}, {})
    (tmp_path / "samples.png").write_bytes(b"\x89PNG")
    store.tracker.add_file(made, tmp_path / "samples.png", "generate")
    found = store.run(key(request))
    assert store.reader.file(found, "generate/samples.png") == b"\x89PNG"
    assert store.reader.file(found, "generate/others.png") is None


def test_many_runs_at_once(store: Store, request: pytest.FixtureRequest) -> None:
    """More than fit one question."""
    bound: dict[str, str | None] = {f"absent {i}": f"{i:032x}" for i in range(1000)}
    made = store.tracker.create(key(request), "a", {}, {})
    assert list(store.reader.runs(bound | {key(request): made})) == [key(request)]


def test_a_store_that_is_not_there_or_none(tmp_path: Path) -> None:
    assert open_reader(f"sqlite:///{tmp_path / 'none.sqlite'}").runs({"a": None}) == {}
    assert not (tmp_path / "none.sqlite").exists(), "a report makes no database"
    (tmp_path / "text.sqlite").write_text("no database at all, only text" * 100)
    with pytest.raises(LedgerError, match="cannot be read.*is it a tracking store"):
        open_reader(f"sqlite:///{tmp_path / 'text.sqlite'}").runs({"a": None})
