"""What the board holds in memory is what the ledger says, however it came to know."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from star.ledger.states import CANCELLED, DONE, FAILED, QUEUED, RUNNING, TRANSITIONS, Allocation, row_state
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home
from star.scheduler.plan import Plan, make_plan
from star.scheduler.registration import register
from star.spec.load import load
from star_board.curves import thinned, together
from star_board.model import Model
from tests.helpers import DATA, ROOT
from tests.scheduler.lab import MANY


def planned(path: Path, name: str = "many") -> tuple[Home, Ledger, Plan]:
    if not path.exists():
        (path / "data").mkdir(parents=True)
        (path / "data" / "fashion-mnist").symlink_to(DATA)
        (path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    file = path / f"{name}.yaml"
    file.write_text(MANY.read_text().replace("experiment: many", f"experiment: {name}"))
    home = Home(path)
    ledger = open_ledger(home)
    plan = make_plan(load(file), home, ledger)
    register(plan, home, ledger, lambda text: None)
    return home, ledger, plan


def picture(model: Model) -> dict[str, Any]:
    """All that pages are made from."""
    return {
        "jobs": {key: (job.state, job.attempt, job.host) for key, job in model.jobs.items()},
        "groups": {
            name: ([(row.label, row.seed, row.run, row.state, row.changed) for row in group.rows], +group.states)
            for name, group in model.groups.items()
        },
        "summaries": {
            name: {k: v for k, v in model.summary(group).items() if k not in ("spent", "rest", "eta", "flops_left")}
            for name, group in model.groups.items()
        },
        "running": [job.key for job in model.running()],
    }


@pytest.mark.parametrize("seed", range(3))
def test_news_add_up_to_the_whole(database: str, tmp_path: Path, seed: int) -> None:
    """Random moves of random jobs, and experiments that come and grow: at any time what was read piece by piece is what a
    new reader sees."""
    home, ledger, plan = planned(tmp_path / "home")
    model, draws = Model(home, ledger), random.Random(seed)
    model.refresh()
    for step in range(60):
        jobs = ledger.jobs.of()
        job = draws.choice(list(jobs.values()))
        if job.state == QUEUED and draws.random() < 0.8:
            assert ledger.jobs.claim(job, "me", "started", Allocation("here", 1)) is not None
        else:
            after = draws.choice(sorted(TRANSITIONS[job.state] - {RUNNING}))
            assert ledger.jobs.move(job, after, "finished" if after == DONE else "again", "so")
        if step == 20:
            planned(tmp_path / "home", "more")
        if step % 3 == 0:
            assert model.refresh()
            fresh = Model(home, ledger)
            fresh.refresh()
            assert picture(model) == picture(fresh)
    model.refresh()
    assert not model.refresh(), "nothing new is no change"


def test_rows_have_the_states_that_status_prints(tmp_path: Path) -> None:
    home, ledger, plan = planned(tmp_path / "home")
    from star.cli.status import overview

    draws = random.Random(1)
    for job in ledger.jobs.of().values():
        running = ledger.jobs.claim(job, "me", "started", Allocation("here", 1))
        after = draws.choice((DONE, DONE, FAILED, CANCELLED, None))
        if running and after:
            ledger.jobs.move(running, after, "finished", "so")
    model = Model(home, ledger)
    model.refresh()
    printed = {(row["row"], row["seed"]): row["state"] for row in overview(home, ledger)["rows"]}
    assert {(row.label, row.seed): row.state for row in model.groups["many", "tiny"].rows} == printed
    assert len(Counter(printed.values())) > 1


def test_a_result_counts_before_the_ledger_has_heard_of_it(tmp_path: Path) -> None:
    """A worker that outlived its scheduler has left a result: as `status` does, the board says done."""
    home, ledger, plan = planned(tmp_path / "home")
    job = next(job for job in ledger.jobs.of().values() if job.stage == "dataset")
    assert ledger.jobs.claim(job, "dead", "started", Allocation("here", 1)) is not None
    model = Model(home, ledger)
    model.refresh()
    assert model.jobs[job.key].state == RUNNING
    folder = home.job(job.stage, job.key)
    folder.path.mkdir(parents=True)
    folder.result.write_text('{"metrics": {}}')
    model._next["progress"] = 0.0
    assert model.refresh() and model.jobs[job.key].state == DONE
    model._newest = 0  # read again as it stands in the ledger: what the folder says stays
    model.refresh()
    assert model.jobs[job.key].state == DONE and not model.running()


def test_progress_is_news_and_shortens_what_is_to_come(tmp_path: Path) -> None:
    home, ledger, plan = planned(tmp_path / "home")
    job = next(job for job in ledger.jobs.of().values() if job.stage == "train")
    assert ledger.jobs.claim(job, "me", "started", Allocation("here", 1)) is not None
    model = Model(home, ledger)
    model.refresh()
    group = model.groups["many", "tiny"]
    before = model.summary(group)["flops_left"]["train"]
    folder = home.job("train", job.key)
    folder.path.mkdir(parents=True)
    folder.progress.write_text(json.dumps({"done": 15, "total": 30, "rate": 1.0}))
    model._next["progress"] = 0.0
    assert model.refresh()
    assert model.summary(group)["flops_left"]["train"] == pytest.approx(before - job.flops / 2)
    os.utime(folder.progress, ns=(1, model._seen[job.key]))
    model._next["progress"] = 0.0
    assert not model.refresh()


def test_what_waits_for_a_failure_is_not_to_come(tmp_path: Path) -> None:
    """A row whose training failed has queued jobs that nobody will start: they are in no estimate, and nothing moves."""
    home, ledger, plan = planned(tmp_path / "home")
    model = Model(home, ledger)
    model.refresh()
    group = model.groups["many", "tiny"]
    assert model.summary(group)["flops_left"]["score"] > 0
    for run in plan.runs:
        job = ledger.jobs.of([run.stages["train"]])[run.stages["train"]]
        running = ledger.jobs.claim(job, "me", "started", Allocation("here", 1))
        assert running and ledger.jobs.move(running, FAILED, "nan", "so")
    ledger.schedulers.enter("local")  # another experiment's, say
    model._next["progress"] = 0.0
    model.refresh()
    found = model.summary(group)
    assert found["queued"] > 0 and found["flops_left"] == {} and not found["is_moving"] and found["eta"] is None


def test_pages_are_made_while_the_model_is_read(tmp_path: Path) -> None:
    """Readers and the refresher at once: nobody meets half a change."""
    home, ledger, plan = planned(tmp_path / "home")
    model, stop, faults = Model(home, ledger), threading.Event(), []
    model.refresh()

    def read() -> None:
        while not stop.is_set():
            try:
                with model.lock:
                    counted = Counter(row.state for group in model.groups.values() for row in group.rows)
                    kept = sum((group.states for group in model.groups.values()), Counter())
                    assert counted == +kept
                    [model.summary(group) for group in model.groups.values()]
            except Exception as error:  # noqa: BLE001
                faults.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    deadline = time.time() + 3
    while time.time() < deadline:
        for job in list(ledger.jobs.of().values())[:5]:
            running = ledger.jobs.claim(job, "me", "started", Allocation("here", 1)) if job.state == QUEUED else None
            ledger.jobs.move(running or job, QUEUED if (running or job).state != QUEUED else CANCELLED, "again", "so")
        model.refresh()
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults


def test_a_rows_state() -> None:
    assert row_state([DONE, DONE], {DONE, FAILED}) == DONE
    assert row_state([DONE, FAILED], {DONE, FAILED, RUNNING}) == FAILED
    assert row_state([None], {RUNNING, QUEUED}) == RUNNING
    assert row_state([QUEUED], {DONE, QUEUED}) == "waiting"


def test_a_thinned_curve_keeps_its_peaks_and_gaps() -> None:
    points = {step: 1.0 for step in range(100_000)} | {54_321: 9.0, 77_777: -9.0, 10: float("nan")}
    steps, values = thinned(points)
    assert len(steps) <= 602 and 9.0 in values and -9.0 in values and steps == sorted(steps)
    assert thinned({1: float("inf"), 2: 3.0}) == ([1, 2], [None, 3.0])
    both = together({"a": {1: 1.0, 2: 2.0}, "none": {}, "b": {2: 5.0}})
    assert both["x"] == [1, 2]
    assert both["series"] == [
        {"label": "a", "y": [1.0, 2.0]},
        {"label": "none", "y": [None, None]},
        {"label": "b", "y": [None, 5.0]},
    ]
