"""What a ledger promises, whatever database is behind it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from star.errors import NotFoundError
from star.ledger.store import CANCELLED, DONE, FAILED, QUEUED, RUNNING, TRANSITIONS, Ledger
from star.spec.keys import run_key, stage_keys
from tests.helpers import tiny

KEY = "0123456789abcdef"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "ledger.sqlite")
    made.add_job(KEY, "train", "a run", 1e9)
    return made


def test_a_job_is_queued_once(ledger: Ledger) -> None:
    ledger.add_job(KEY, "train", "another run", 1e9)
    assert [(job.key, job.state, job.label) for job in ledger.jobs().values()] == [(KEY, QUEUED, "a run")]


def test_a_life(ledger: Ledger) -> None:
    assert ledger.move(ledger.jobs()[KEY], RUNNING, "started")
    ledger.set_handle(KEY, 1, {"pid": 7})
    assert ledger.move(ledger.jobs()[KEY], QUEUED, "worker died (signal 9)")
    assert ledger.move(ledger.jobs()[KEY], RUNNING, "started")
    job = ledger.jobs()[KEY]
    assert (job.attempt, job.handle) == (2, None)
    assert ledger.move(job, FAILED, "DataError: no images", error_class="DataError", error="no images")
    failed = ledger.jobs()[KEY]
    assert failed.error == "no images" and failed.finished is not None
    assert [(row.attempt, row.before, row.after) for row in ledger.history(KEY)] == [
        (0, None, QUEUED), (1, QUEUED, RUNNING), (1, RUNNING, QUEUED), (2, QUEUED, RUNNING), (2, RUNNING, FAILED),
    ]  # fmt: skip


def test_a_move_from_a_state_that_has_passed_does_nothing(ledger: Ledger) -> None:
    stale = ledger.jobs()[KEY]
    assert ledger.move(stale, RUNNING, "started by one")
    assert not ledger.move(stale, RUNNING, "started by another")
    assert not ledger.move(stale, CANCELLED, "too late")
    assert ledger.jobs()[KEY].state == RUNNING and len(ledger.history(KEY)) == 2


def test_a_result_of_an_earlier_attempt_cannot_end_a_later_one(ledger: Ledger) -> None:
    ledger.move(ledger.jobs()[KEY], RUNNING, "first")
    first = ledger.jobs()[KEY]
    ledger.move(first, QUEUED, "lost")
    ledger.move(ledger.jobs()[KEY], RUNNING, "second")
    assert not ledger.move(first, DONE, "late")
    assert ledger.jobs()[KEY].attempt == 2


@pytest.mark.parametrize("before", list(TRANSITIONS))
def test_only_legal_transitions(ledger: Ledger, before: str) -> None:
    for after in set(TRANSITIONS) - TRANSITIONS[before]:
        job = ledger.jobs()[KEY]
        with pytest.raises(AssertionError, match="no transition"):
            ledger.move(type(job)(**{**job.__dict__, "state": before}), after, "forbidden")


def test_of_many_claims_at_once_one_wins(tmp_path: Path, ledger: Ledger) -> None:
    keys = [f"{i:016x}" for i in range(20)]
    for key in keys:
        ledger.add_job(key, "train", "", 0)
    wins: list[str] = []

    def claim() -> None:
        mine = Ledger(tmp_path / "ledger.sqlite")
        for job in mine.jobs(keys).values():
            if job.state == QUEUED and mine.move(job, RUNNING, "claimed"):
                wins.append(job.key)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == keys
    assert all(len(ledger.history(key)) == 2 for key in keys)


def test_a_ledger_that_many_open_first_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def open_it() -> None:
        try:
            Ledger(tmp_path / "new" / "ledger.sqlite").add_job(KEY, "train", "", 0)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len(Ledger(tmp_path / "new" / "ledger.sqlite").history(KEY)) == 1


def test_runs_experiments_and_prefixes(ledger: Ledger) -> None:
    spec = tiny()
    stages = stage_keys(spec, {"data": "x"})
    key = run_key(stages)
    for _ in range(2):
        ledger.add_run(key, "r=0.25 · seed 0", spec, stages)
        ledger.set_experiment("tiny", "tiny", ["score"], [("r=0.25", 0, key)])
    assert ledger.runs()[key].stages == stages and len(ledger.experiments()) == 1
    assert type(spec).model_validate(ledger.runs()[key].spec) == spec
    assert ledger.resolve(key[:6]) == ("run", key)
    assert ledger.resolve(f"train-{KEY}") == ("job", KEY)
    for unknown in ("ffffff", ""):
        with pytest.raises(NotFoundError, match="is the start of"):
            ledger.resolve(unknown)


def test_how_much_the_tracker_holds(ledger: Ledger) -> None:
    spec = tiny()
    ledger.add_run("a", "a", spec, {"train": KEY})
    assert ledger.set_tracking_id("a", None, "mlflow-1")
    assert not ledger.set_tracking_id("a", None, "mlflow-of-another-scheduler")
    ledger.set_tracked("a", KEY, 100, False)
    ledger.set_tracked("a", KEY, 200, True)
    assert ledger.tracked("a") == {KEY: (200, True)}
    assert ledger.set_tracking_id("a", "mlflow-1", "mlflow-2")
    assert ledger.tracked("a") == {}
