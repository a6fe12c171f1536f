"""docs/resume.md, its lines on verbs, and on several people at one ledger."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from star.errors import LedgerError, SpecError
from star.ledger.states import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Allocation
from star.ledger.store import open_ledger
from star.rundir import Home, read_json
from star.scheduler.job_actions import cancel, choose, rerun, retry
from star.scheduler.job_graph import JobGraph
from star.scheduler.job_monitor import JobMonitor
from star.scheduler.local import LocalExecutor
from tests.helpers import ROOT
from tests.scheduler.lab import WORKER, Lab, command, workers
from tests.services import until


@pytest.fixture
def lab(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("STAR_LEDGER_URL", raising=False)
    return Lab(tmp_path / "home")


@pytest.mark.contract("V1", "V2")
def test_retry_is_a_verb_on_states(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lab.plan()
    lab.register(plan)
    monkeypatch.setenv("LIGHT_EXIT", "user")
    lab.run(plan)
    monkeypatch.delenv("LIGHT_EXIT")
    failed = lab.job(plan, "dataset")
    assert (failed.why, failed.error_class) == ("user_error", "DataError") and failed.attempt == 1
    waiting = lab.ledger.jobs.of_state(QUEUED)
    assert [job.key for job in retry(lab.ledger, [*waiting, failed])] == [failed.key]
    assert lab.job(plan, "dataset").state == QUEUED
    assert lab.run().done == 20
    assert retry(lab.ledger, lab.ledger.jobs.of().values()) == []
    monkeypatch.setenv("LIGHT_EXIT", "user")
    extended = lab.plan(seeds=[0, 1])
    lab.run(extended)
    monkeypatch.delenv("LIGHT_EXIT")
    assert lab.run(lab.plan(seeds=[0, 1])).done > 0 and lab.ledger.jobs.of_state(FAILED) == []


@pytest.mark.contract("V3")
def test_cancel_stops_what_runs_and_what_waits(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "200")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan, running = lab.plan(), command(lab)
    until(lambda: lab.folder(plan, "dataset").metrics.exists(), "the first worker is at it")
    chosen = choose(lab.ledger, [plan.runs[0].key], None, alone=True)
    assert {job.stage for job in chosen.jobs.values()} == {"train", "generate", "score", "probe"}
    assert {job.stage for job in lab.ledger.jobs.of(chosen.shared).values()} == {
        "dataset",
        "tokenizer",
        "encode",
        "reference",
    }
    whole = choose(lab.ledger, [], "many").jobs.values()
    left = cancel(lab.home, lab.ledger, whole, lambda name: LocalExecutor(1, gpus=list), lab.said.append)
    assert left == [] and {job.state for job in lab.ledger.jobs.of().values()} == {CANCELLED}
    assert running.wait(timeout=200) == 1 and workers(lab) == []
    assert 0 < read_json(lab.folder(plan, "dataset").checkpoints / "state.json")["done"] < 200


@pytest.mark.contract("V3")
def test_cancel_does_without_a_scheduler(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "200")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan, running = lab.plan(), command(lab)
    until(lambda: lab.folder(plan, "dataset").metrics.exists(), "the first worker is at it")
    running.kill()
    running.wait()
    job = lab.job(plan, "dataset")
    left = cancel(lab.home, lab.ledger, [job], lambda name: LocalExecutor(1, gpus=list, worker=WORKER), lab.said.append)
    assert left == [] and lab.job(plan, "dataset").state == CANCELLED and workers(lab) == []


@pytest.mark.contract("V4")
def test_rerun_puts_aside_and_computes_all_that_follows(lab: Lab) -> None:
    plan = lab.plan()
    lab.run(plan)
    moved = rerun(lab.home, lab.ledger, [lab.job(plan, "train", 1)])
    assert {job.stage for job in moved} == {"train", "generate", "score", "probe"}
    assert len(list(lab.home.aside.iterdir())) == 4 and all(
        (path / "result.json").exists() for path in lab.home.aside.iterdir()
    )
    assert lab.run().done == 4
    assert lab.job(plan, "train", 1).attempt == 2 and lab.job(plan, "train", 0).attempt == 1


def most_at_a_time(lab: Lab) -> list[int]:
    """How many jobs ran after each change that the ledger notes."""
    rows = sorted((row for key in lab.ledger.jobs.of() for row in lab.ledger.jobs.history(key)), key=lambda row: row.id)
    running, counts = set[str](), []
    for row in rows:
        (running.add if row.after == RUNNING else running.discard)(row.job)
        counts.append(len(running))
    return counts


@pytest.mark.contract("P1", "P4")
def test_two_people_share_the_work(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlapping experiments in two processes on two cores: each job once, never more than two at a time."""
    monkeypatch.setenv("LIGHT_STEPS", "4")
    monkeypatch.setenv("LIGHT_SECONDS", "0.05")
    other = lab.file(("experiment: many", "experiment: other"), ("[0.1, 0.2, 0.3, 0.4]", "[0.2, 0.3, 0.5]"))
    plan = lab.plan(other)
    lab.register(plan)
    first = command(lab)
    outcome = lab.scheduler().run(plan, lambda states: None)
    assert first.wait(timeout=200) == 0 and outcome.failed == [] == outcome.blocked
    assert set(lab.times_done().values()) == {1} and len(lab.times_done()) == 24
    assert len(most_at_a_time(lab)) > 0 and max(most_at_a_time(lab)) <= 2
    owners = {row.owner for key in lab.ledger.jobs.of() for row in lab.ledger.jobs.history(key) if row.why == "started"}
    assert len(owners) == 2, "one of them did it all"


@pytest.mark.contract("P1")
def test_what_another_did_between_plan_and_start_is_not_done_again(lab: Lab) -> None:
    plan = lab.plan()
    lab.run()
    assert len(plan.to_do) == 20  # when this one looked, nothing was there
    assert lab.run(plan).done == 20
    assert set(lab.times_done().values()) == {1}
    assert {job.attempt for job in lab.ledger.jobs.of().values()} == {1}


@pytest.mark.contract("P2")
def test_a_living_scheduler_adopts_what_a_dead_one_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "60")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    first = command(lab, "--set", "resources.threads={tokenizer: 1}")
    plan = lab.plan()
    until(lambda: lab.folder(plan, "tokenizer").metrics.exists(), "workers are at it")
    monkeypatch.setenv("LIGHT_STEPS", "1")
    outcome = lab.run(lab.plan(), tick=lambda states: first.kill())  # by its first tick this one has seen it at work
    first.wait()
    assert outcome.failed == [] and {job.state for job in lab.ledger.jobs.of().values()} == {DONE}
    assert any(row.why == "adopted" for key in lab.ledger.jobs.of() for row in lab.ledger.jobs.history(key))
    assert set(lab.times_done().values()) == {1}


@pytest.mark.contract("P2")
def test_what_a_dead_scheduler_of_another_experiment_left_holds_no_room(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "30")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    first = command(lab, "--set", "optim.steps=20", "--name", "first")
    plan = lab.plan(sets=("optim.steps=20",), name="first")
    both = [lab.folder(plan, stage) for stage in ("tokenizer", "reference")]  # what can run first, beside each other
    until(lambda: all(folder.metrics.exists() for folder in both), "two workers fill the machine")
    first.kill()
    first.wait()
    monkeypatch.setenv("LIGHT_STEPS", "1")
    other = lab.file(("experiment: many", "experiment: second"), ("table:", "base: {data: {test_images: 150}}\ntable:"))
    outcome = lab.run(lab.plan(other))
    assert outcome.failed == [] == outcome.blocked
    for stage in ("tokenizer", "reference"):
        assert lab.job(plan, stage).state == DONE, "it ran to its end, and was settled"


@pytest.mark.contract("V4")
def test_rerun_leaves_a_running_reader_its_input(lab: Lab) -> None:
    plan = lab.plan()
    lab.run(plan)
    rerun(lab.home, lab.ledger, [lab.job(plan, "probe")])
    assert lab.ledger.jobs.claim(lab.job(plan, "probe"), "me", "started", Allocation("here", 1))
    with pytest.raises(SpecError, match="is running, and reads what would be made again"):
        rerun(lab.home, lab.ledger, [lab.job(plan, "train")])
    assert lab.folder(plan, "train").result.exists()


def test_numbers_without_their_output_are_no_result(lab: Lab) -> None:
    """`gc` took the output, it is wanted again, and the scheduler died before it could begin."""
    plan = lab.plan()
    lab.run(plan)
    (lab.folder(plan, "encode").out / ".removed").touch()
    lab.register(lab.plan(seeds=[0, 1]))
    assert lab.ledger.jobs.claim(
        lab.job(plan, "encode"), "it died at once", "started", Allocation(socket.gethostname(), 1)
    )
    outcome = lab.run(lab.plan(seeds=[0, 1]))
    assert outcome.failed == [] and lab.folder(plan, "encode").has_output()


def test_a_folder_that_cannot_be_written_ends_the_attempt_and_not_the_scheduler(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    import star.scheduler.start as start

    plan, write = lab.plan(), start.write_json
    victim = lab.folder(plan, "train", 1).job

    def failing(path: Path, value: object, durable: bool = True) -> None:
        if path == victim:
            raise OSError(28, "No space left on device")
        write(path, value, durable)

    monkeypatch.setattr(start, "write_json", failing)
    outcome = lab.run(plan)
    assert [(job.key, job.why) for job in outcome.failed] == [(plan.runs[1].stages["train"], "disk_full")]
    assert outcome.done == 16


@pytest.mark.contract("P3")
def test_one_ledger_one_home(lab: Lab, database: str, tmp_path: Path) -> None:
    lab.register(lab.plan())
    with pytest.raises(LedgerError, match="belongs to the home"):
        open_ledger(Home(tmp_path / "elsewhere"))


def test_time_passes(lab: Lab) -> None:
    """Pauses between attempts are kept, and other jobs run meanwhile."""
    plan = lab.plan()
    lab.register(plan)
    job = lab.job(plan, "dataset")
    held = lab.ledger.jobs.claim(job, "x", "started", Allocation("y", 1))
    assert held is not None
    lab.ledger.jobs.move(held, QUEUED, "infrastructure", "a lost node", not_before=time.time() + 1.5)
    began = time.time()
    assert lab.run().done == 20 and time.time() - began > 1.4


def test_a_pause_that_a_clock_far_ahead_has_set_is_over(lab: Lab) -> None:
    plan = lab.plan()
    lab.register(plan)
    graph = JobGraph(plan.jobs.values())
    job = lab.job(plan, "dataset")
    graph.see(replace(job, not_before=time.time() + 5000))
    assert [one.key for one in graph.ready()] == [job.key]


@pytest.mark.contract("V3")
def test_a_pause_of_what_was_cancelled_keeps_nothing_open(lab: Lab) -> None:
    plan = lab.plan()
    lab.register(plan)
    graph = JobGraph(plan.jobs.values())
    job = lab.job(plan, "dataset")
    for other in lab.ledger.jobs.of().values():
        graph.see(replace(other, not_before=time.time() + 600 if other.key == job.key else None))
    for other in list(graph.ready()):
        graph.see(replace(graph.states[other.key], state=CANCELLED))
    assert graph.is_open()
    graph.see(replace(job, state=CANCELLED))
    assert not graph.is_open()


@pytest.mark.contract("V3")
def test_a_job_that_was_taken_over_from_another_experiment_is_cancelled_too(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lab.plan()
    lab.register(plan)
    job = lab.job(plan, "dataset")
    stopped: list[str] = []
    monitor: Any = JobMonitor(lab.home, lab.ledger, LocalExecutor(1, gpus=list, worker=WORKER), lab.said.append)
    running = lab.ledger.jobs.claim(job, monitor.lease.me.id, "started", Allocation(socket.gethostname(), 1))
    assert running is not None
    monkeypatch.setattr(monitor, "_cancel", lambda one: stopped.append(one.key))
    monkeypatch.setattr(monitor, "look", lambda graph, jobs: None)
    monitor._strays.add(running)
    lab.ledger.jobs.want([job.key], "cancel")
    monitor.refresh(JobGraph(()))
    assert stopped == [job.key]
