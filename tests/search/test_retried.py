"""Failed trials after `star-exp retry`: they are computed to their end, by whom ever, and their hours count once."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from star.ledger.states import FAILED, QUEUED
from star.ledger.store import open_ledger
from star.rundir import Home
from star.scheduler.job_actions import retry
from star.scheduler.loop import Scheduler
from star.scheduler.snapshot import take
from star.search.best import best
from star.search.segments import TrialSegments
from star.search.study import HOURS, PROMOTED, Study, counts
from star.spec.load_search import load_search
from tests.search.lab import BowlExecutor, SearchLab
from tests.search.test_search import CONFIRM, FEW


def test_a_failed_trial_whose_job_is_queued_again_is_computed(tmp_path: Path, images: Path) -> None:
    """The default too: without it nothing could be compared."""
    lab = SearchLab(tmp_path, *FEW)
    lab.run(total=2, parallel=1, broken=["probe"])
    assert [trial.state for trial in lab.trials()] == [TrialState.FAIL] * 2
    assert not any("queued again" in line for line in lab.run(total=2))  # nobody asked for that
    ledger = open_ledger(Home(tmp_path))
    retry(ledger, ledger.jobs.of_state(FAILED))
    said = lab.run(total=4, parallel=1)
    assert sum("its failed job was queued again" in line for line in said) == 2
    kept = [trial for trial in lab.trials() if trial.state == TrialState.COMPLETE]
    assert [trial.user_attrs.get(PROMOTED) for trial in kept] == [0, 1, None, None]
    assert sum(counts(trial) for trial in lab.trials()) == 4
    chosen = best(Study(load_search(lab.file), Home(tmp_path), begin=False), 3)
    assert chosen[0][0] == 0 and len(chosen) == 4
    lab.run(total=4)
    assert len(lab.trials()) == 6
    hours = sum(trial.user_attrs[HOURS] for trial in lab.trials() if HOURS in trial.user_attrs)
    own = [path for path in tmp_path.glob("jobs/*/result.json") if path.parent.name.split("-")[0] in ("train", "probe")]
    assert hours == pytest.approx(len(own) * 3.6 / 3600, rel=0.01), "each job once"


def test_whoever_finished_what_was_retried(tmp_path: Path, images: Path) -> None:
    """A scheduler at work takes retried jobs: then none waits when the search goes on."""
    lab = SearchLab(tmp_path, *FEW)
    lab.run(total=1, parallel=1, broken=["probe"])
    ledger = open_ledger(Home(tmp_path))
    failed = ledger.jobs.of_state(FAILED)
    retry(ledger, failed)
    segments = TrialSegments(Home(tmp_path), ledger, "tiny-search", lambda plan: None)
    search = load_search(lab.file)
    plan = segments.plan(search.experiment([("trial 0", search.default)], search.spec.seeds, search.targets))
    Scheduler(Home(tmp_path), ledger, BowlExecutor(()), take(Home(tmp_path)), print).run(plan, lambda states: None)
    assert not ledger.jobs.of_state(QUEUED)
    said = lab.run(total=1)
    assert any("trial 0: its failed job was queued again" in line for line in said)
    assert [trial.user_attrs.get(PROMOTED) for trial in lab.trials()] == [None, 0]


def test_a_retried_comparison_is_computed_too(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, ("reduction: 3", "reduction: 3, spec: {probe: {epochs: 2}}"), (CONFIRM, ""))
    lab.run(total=1, parallel=1, broken=["probe"])
    ledger = open_ledger(Home(tmp_path))
    retry(ledger, ledger.jobs.of_state(FAILED))
    lab.run(total=1)
    assert lab.trials()[1].user_attrs[PROMOTED] == 0
    assert not ledger.jobs.of_state(QUEUED), "nothing waits for ever"
