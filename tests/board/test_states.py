"""States that a board meets on ordinary days: a job just begun, another machine's GPUs, numbers that are none, trackers that are away."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import insert, text, update

from star.ledger.states import DONE, FAILED, QUEUED, Allocation
from star.ledger.tables import history, jobs
from star.scheduler.plan import make_plan
from star.scheduler.registration import register
from star.spec.load import load
from star_board.model import Model
from star_board.results import Results, Shelf
from tests.board.server import BoardServer
from tests.board.test_model import planned
from tests.helpers import star_exp
from tests.services import until


class Days:
    """A home with all of them, and its board."""

    def __init__(self, path: Path) -> None:
        self.home, self.ledger, self.plan = planned(path)
        known = {job.key: job for job in self.ledger.jobs.of().values()}
        self.begun = known[self.plan.runs[0].stages["train"]]
        assert self.ledger.jobs.claim(self.begun, "me", "started", Allocation("gpu-box", 1, {"GPU-a": 2**30}))
        self.odd = known[self.plan.runs[1].stages["train"]]
        running = self.ledger.jobs.claim(self.odd, "me", "started", Allocation("here", 1))
        assert running and self.ledger.jobs.move(running, DONE, "finished", "so")
        folder = self.home.job("train", self.odd.key)
        folder.out.mkdir(parents=True)
        numbers = {"val_nll": math.nan, "loss": math.inf, "less": -math.inf, "none": None}
        folder.result.write_text(json.dumps({"metrics": numbers, "provenance": {}, "seconds": 1.0, "finished": 1.0}))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(storage=f"sqlite:///{self.home.studies}", study_name="odd@tiny")
        study.enqueue_trial({"x": 0.5})
        for value in (1.0, math.inf, 2.0):
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            study.tell(trial, value)
        trial = study.ask()
        trial.report(math.nan, 1)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        study.ask()
        study.enqueue_trial({"x": 0.25})
        self.board = BoardServer(path)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Days]:
    found = Days(tmp_path_factory.mktemp("days") / "home")
    yield found
    found.board.stop()


def no_json(name: str) -> None:
    """For NaN and Infinity, which browsers do not read."""
    pytest.fail(f"{name} is not JSON")


def test_every_page_can_be_made(days: Days) -> None:
    run = days.plan.runs[1].key
    for path in (
        *("/", "/queue", "/runs", "/failures", "/searches", "/searches/odd/tiny", "/experiments/many/tiny", "/gallery"),
        *(f"/jobs/{days.begun.key}", f"/jobs/{days.odd.key}", f"/runs/{run}", f"/compare?run={run}"),
        *(f"/runs?sort={name}" for name in ("train/val_nll", "-train/val_nll", "probe/accuracy", "changed", "state")),
        *(f"/searches/odd/tiny/points.json?kind={kind}" for kind in ("history", "front", "slice&parameter=x", "no")),
    ):
        answer = days.board.ask(path)
        assert answer.status == 200, f"{path}: {answer.text}"
        if path.startswith("/searches/odd/tiny/points"):
            json.loads(answer.body, parse_constant=no_json)
    queue = days.board.ask("/queue").text
    assert "gpu-box" in queue and "GPU-a" in queue and "1.0 GiB held" in queue
    assert "nan" in days.board.ask(f"/jobs/{days.odd.key}").text


def test_a_job_of_an_experiment_that_was_forgotten_is_no_failure(tmp_path: Path) -> None:
    home, ledger, plan = planned(tmp_path / "home")
    job = ledger.jobs.of([plan.runs[0].stages["train"]])[plan.runs[0].stages["train"]]
    running = ledger.jobs.claim(job, "me", "started", Allocation("here", 1))
    assert running and ledger.jobs.move(running, FAILED, "nan", "so", error="loss is nan", error_class="DivergedError")
    for other in ledger.jobs.of().values():
        if other.state == QUEUED:
            ledger.jobs.move(other, "cancelled", "cancelled", "so")
    board = BoardServer(tmp_path / "home")
    try:
        assert "loss is nan" in board.ask("/failures").text
        assert star_exp("forget", "many", home=home.path).returncode == 0
        until(lambda: "loss is nan" not in board.ask("/failures").text, "the board looks again")
        assert "belong to experiments that were forgotten" in board.ask("/").text
    finally:
        board.stop()


def test_a_tracker_that_is_away_is_said_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not after the four minutes for which MLflow's client would try; no page holds its password."""
    home, _, _ = planned(tmp_path / "home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:a-password@127.0.0.1:9")
    board = BoardServer(home.path)
    try:
        began = time.monotonic()
        answer = board.ask("/experiments/many/tiny/results")
        assert answer.status == 200 and "does not answer" in answer.text and time.monotonic() - began < 100
        pages = "".join(board.ask(path).text for path in ("/", "/claims", "/experiments/many/tiny/results"))
        assert "a-password" not in pages + answer.text
    finally:
        board.stop()


def test_results_are_read_again_when_the_record_changes(tmp_path: Path) -> None:
    """Also long after the last job: the same experiment, run again with another table."""
    home, ledger, plan = planned(tmp_path / "home")
    model = Model(home, ledger)
    model.refresh()
    shelf, group = Shelf(model, f"sqlite:///{home.mlflow}"), model.groups["many", "tiny"]
    for row in group.rows:
        row.changed = 1.0  # long ago
    group.dirty = True
    first = shelf.of(group)
    assert isinstance(first, Results) and first.table and len(first.table.columns) == 2
    assert shelf.of(group) is first
    file = tmp_path / "home" / "many.yaml"
    file.write_text(file.read_text() + "    - {title: NLL, metric: train/val_nll}\n")
    register(make_plan(load(file), home, ledger), home, ledger, lambda text: None)
    again = shelf.of(group)
    assert isinstance(again, Results) and again.table and len(again.table.columns) == 3


def test_why_there_are_no_results_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, ledger, plan = planned(tmp_path / "home")
    model = Model(home, ledger)
    model.refresh()
    record = next(home.experiments.glob("*.json"))
    kept = record.read_text()
    record.unlink()
    shelf, group = Shelf(model, f"sqlite:///{home.mlflow}"), model.groups["many", "tiny"]
    assert "has no record" in str(shelf.of(group))
    record.write_text(kept)
    assert isinstance(shelf.of(group), Results)


def test_transitions_that_are_committed_late_are_seen(tmp_path: Path) -> None:
    """As PostgreSQL may do it: a lower number appears after a higher one was read, and nothing comes after."""
    home, ledger, plan = planned(tmp_path / "home")
    model = Model(home, ledger)
    model.refresh()
    train, other = (plan.runs[i].stages["train"] for i in (0, 1))
    newest = ledger.jobs.newest()

    def happened(key: str, number: int) -> None:
        with ledger.database.transaction() as connection:
            connection.execute(update(jobs).where(jobs.c.key == key).values(state=FAILED, attempt=1))
            row = {"id": number, "time": time.time(), "job": key, "attempt": 1, "after": FAILED, "reason": "so"}
            connection.execute(insert(history).values(row))

    happened(other, newest + 2)
    model.refresh()
    assert model.jobs[other].state == FAILED
    happened(train, newest + 1)
    model.refresh()
    assert model.jobs[train].state == FAILED
    # one that no number tells of is found when all are compared
    with ledger.database.transaction() as connection:
        connection.execute(text("update jobs set state = 'lost', attempt = 2 where key = :key"), {"key": train})
    model._next["again"] = model._next["whole"] = 0.0
    model.refresh()
    assert model.jobs[train].state == "lost"


def test_other_targets_are_other_states(tmp_path: Path) -> None:
    """An experiment that was done with its training, and now wants a probe too, is done no more."""
    home, ledger, plan = planned(tmp_path / "home")
    for run in plan.runs:
        for job in ledger.jobs.of(run.stages.values()).values():
            if job.stage in ("dataset", "tokenizer", "encode", "train") and job.state == QUEUED:
                running = ledger.jobs.claim(job, "me", "started", Allocation("here", 1))
                assert running and ledger.jobs.move(running, DONE, "finished", "so")
    rows = [(run.label, run.seed, run.key) for run in plan.runs]
    ledger.runs.set_experiment("many", "tiny", ["train"], rows)
    model = Model(home, ledger)
    model.refresh()
    assert {row.state for row in model.groups["many", "tiny"].rows} == {DONE}
    ledger.runs.set_experiment("many", "tiny", ["probe"], rows)
    model._next["whole"] = 0.0
    model._size = (0, 0)
    assert model.refresh() and {row.state for row in model.groups["many", "tiny"].rows} == {"waiting"}


def test_a_scheduler_that_dies_is_news(tmp_path: Path) -> None:
    home, ledger, _ = planned(tmp_path / "home")
    model = Model(home, ledger)
    me = ledger.schedulers.enter("local")
    model.refresh()
    assert model.at_work() and not model.refresh()
    with ledger.database.transaction() as connection:
        connection.execute(text("update schedulers set born = 'another boot' where id = :id"), {"id": me.id})
    model._next["progress"] = 0.0
    assert model.refresh() and not model.at_work()


def test_status_of_one_experiment_counts_its_own_jobs(tmp_path: Path) -> None:
    home, ledger, _ = planned(tmp_path / "home")
    file = tmp_path / "home" / "small.yaml"
    changed = (tmp_path / "home" / "many.yaml").read_text().replace("experiment: many", "experiment: small")
    file.write_text(changed.replace("[0.1, 0.2, 0.3, 0.4]", "[0.6]"))
    plan = make_plan(load(file), home, ledger)
    register(plan, home, ledger, lambda text: None)
    found = json.loads(star_exp("status", "small", "--json", home=home.path).stdout)
    assert found["counts"] == {QUEUED: len(plan.jobs)} and len(found["open_jobs"]) == len(plan.jobs)
    said = star_exp("status", "small", home=home.path).stdout
    assert (
        said.count("queued ") >= len(plan.jobs) and "no scheduler is at work" in said and "mask_ratio=0.2" not in said
    )
