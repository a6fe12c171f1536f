"""docs/resume.md, line by line: each test carries the numbers of the lines that it holds."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import star.scheduler.snapshot as snapshot
from star.errors import SpecError
from star.ledger.states import DONE, FAILED, QUEUED, RUNNING, Allocation, Job
from star.pipeline import STAGES
from star.rundir import read_json, write_json
from star.scheduler.executor import Start
from star.scheduler.explain import why
from star.scheduler.local import LocalExecutor
from star.scheduler.plan import PlannedJob, make_plan
from star.scheduler.policies import DEATH
from star.scheduler.registration import compare, register, spec_differences
from tests.helpers import ROOT
from tests.scheduler.lab import WORKER, Lab, command, workers
from tests.services import until


@pytest.fixture
def lab(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("STAR_LEDGER_URL", raising=False)
    return Lab(tmp_path / "home")


def test_every_line_of_the_contract_has_a_test() -> None:
    lines = re.findall(r"^\| ([A-Z]\d) \|", (ROOT / "docs" / "resume.md").read_text(), re.M)
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_registration*.py")]
    carried = re.findall(r"@pytest.mark.contract\((.*?)\)", "\n".join(texts))
    assert sorted(lines) == sorted({line for group in carried for line in re.findall(r"[A-Z]\d", group)})


@pytest.mark.contract("I1", "I2")
def test_done_is_done(lab: Lab) -> None:
    assert lab.run().done == 20
    again = lab.plan()
    assert not again.to_do and lab.run(again).done == 0
    other = lab.plan(lab.file(("experiment: many", "experiment: other"), ("[0.1, 0.2, 0.3, 0.4]", "[0.4, 0.5]")))
    assert {job.stage for job in other.to_do} == {"train", "generate", "score", "probe"} and len(other.to_do) == 4
    lab.run(other)
    assert set(lab.times_done().values()) == {1} and len(lab.times_done()) == 24
    assert {(row.name, row.profile) for row in lab.ledger.runs.experiments()} == {("many", "tiny"), ("other", "tiny")}


@pytest.mark.contract("I3")
def test_resources_are_part_of_nothing(lab: Lab) -> None:
    lab.run()
    wider = lab.plan(sets=("resources.threads={train: 2}", "resources.checkpoint_every=7", "resources.device=cpu"))
    assert not wider.to_do and compare(wider, lab.ledger).forked == {}


@pytest.mark.contract("F1", "F2")
def test_a_killed_scheduler_leaves_its_workers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "20")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    first = command(lab)
    plan = lab.plan()
    until(lambda: len(workers(lab)) == 2 and lab.folder(plan, "tokenizer").metrics.exists(), "two workers are at it")
    at_work = {process.pid for process in workers(lab)}
    first.kill()
    first.wait()
    monkeypatch.setenv("LIGHT_SECONDS", "0")
    second = lab.plan()
    assert {job.stage for job in second.to_do if job.action == "running"} == {"tokenizer", "reference"}
    attached: list[set[int]] = []
    outcome = lab.run(second, tick=lambda states: attached.append({process.pid for process in workers(lab)}))
    assert attached[0] == at_work and outcome.done == 19
    assert sum("attached" in line for line in lab.said) == 2
    assert set(lab.times_done().values()) == {1}
    assert [row.after for row in lab.ledger.jobs.history(plan.runs[0].stages["tokenizer"])] == [
        QUEUED,
        RUNNING,
        RUNNING,
        DONE,
    ]


@pytest.mark.contract("F2")
def test_a_result_that_nobody_saw_is_found(lab: Lab) -> None:
    plan = lab.plan()
    lab.register(plan)
    job = lab.job(plan, "dataset")
    held = lab.ledger.jobs.claim(job, "a scheduler that is gone", "started", Allocation("this", 1))
    assert held is not None
    scheduler = lab.scheduler()
    start = scheduler.starter._prepare(plan.jobs[job.key], held, Allocation("this", 1))
    subprocess.run([sys.executable, "-m", WORKER, str(start.job.path)], check=True, capture_output=True)
    assert lab.plan().jobs[job.key].action == "reuse"
    assert lab.run().done == 19 and lab.job(plan, "dataset").state == DONE
    assert set(lab.times_done().values()) == {1}


@pytest.mark.contract("F3")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_queues(lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "100")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan, running = lab.plan(), command(lab)
    until(lambda: lab.folder(plan, "dataset").metrics.exists(), "the first worker is at it")
    running.send_signal(number)
    out = running.communicate(timeout=200)[0]
    assert running.returncode == 130 and "the same command goes on" in out
    assert workers(lab) == [] and lab.ledger.schedulers.all() == {}
    job = lab.job(plan, "dataset")
    assert (job.state, job.why) == (QUEUED, "preempted")
    done = read_json(lab.folder(plan, "dataset").checkpoints / "state.json")["done"]
    assert 0 < done < 100
    monkeypatch.setenv("LIGHT_SECONDS", "0")
    lab.run()
    steps = [line["step"] for line in map(json.loads, lab.folder(plan, "dataset").metrics.open())]
    assert steps == list(range(1, 101))


@pytest.mark.contract("F4")
def test_a_killed_worker_goes_on_and_a_hopeless_one_ends(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_EXIT", "9")
    plan = lab.plan()
    outcome = lab.run(plan)
    assert [job.stage for job in outcome.failed] == ["dataset"] and len(outcome.blocked) == 19
    failed = lab.job(plan, "dataset")
    assert (failed.state, failed.why, failed.attempt) == (FAILED, "died", 3)
    assert "exit code 9" in (failed.error or "")
    monkeypatch.delenv("LIGHT_EXIT")
    assert lab.run().done == 20


@pytest.mark.contract("F5")
def test_an_older_attempt_writes_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "30")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan = lab.plan()
    lab.register(plan)
    job = plan.jobs[plan.runs[0].stages["dataset"]]
    scheduler = lab.scheduler()
    held = lab.ledger.jobs.claim(lab.job(plan, "dataset"), "old", "started", Allocation("elsewhere", 1))
    assert held is not None
    start = scheduler.starter._prepare(job, held, Allocation("elsewhere", 1))
    older = subprocess.Popen([sys.executable, "-m", WORKER, str(start.job.path)], stderr=subprocess.DEVNULL)
    until(start.job.metrics.exists, "the older worker is at it")
    content = read_json(start.job.job)
    write_json(start.job.job, {**content, "attempt": 2})  # as a scheduler does that takes it for dead
    assert older.wait(timeout=200) == 3
    assert not start.job.result.exists() and not start.job.out.exists()


@pytest.mark.contract("F6")
def test_a_worker_that_was_not_noted_down_is_found(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "40")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan = lab.plan()
    lab.register(plan)
    executor = LocalExecutor(2, gpus=list, worker=WORKER)
    first = lab.scheduler(executor)
    held = lab.ledger.jobs.claim(lab.job(plan, "dataset"), "it died at once", "started", Allocation(executor.host, 1))
    assert held is not None
    executor.submit([first.starter._prepare(plan.jobs[held.key], held, Allocation(executor.host, 1))])
    monkeypatch.setenv("LIGHT_STEPS", "1")
    monkeypatch.setenv("LIGHT_SECONDS", "0")
    assert lab.run().done == 20
    assert lab.job(plan, "dataset").attempt == 1 and set(lab.times_done().values()) == {1}


@pytest.mark.contract("F7")
def test_a_scheduler_that_slept_leaves_what_was_taken_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lab.plan()
    lab.register(plan)
    scheduler = lab.scheduler()
    prepare, slept = scheduler.starter._prepare, []

    def sleepily(planned: PlannedJob, job: Job, *rest: Any) -> Start:
        start = prepare(planned, job, *rest)
        if not slept:
            slept.append(job.key)
            taken = lab.ledger.jobs.adopt(job, "another", "its scheduler is silent")
            assert taken is not None and lab.ledger.jobs.move(taken, QUEUED, DEATH, "no trace of it")
        return start

    monkeypatch.setattr(scheduler.starter, "_prepare", sleepily)
    assert scheduler.run(plan, lambda states: None).done == 20
    (key,) = slept
    folder = lab.home.job(plan.jobs[key].stage, key)
    assert (folder.path / "done.txt").read_text().split() == ["2"]
    assert set(lab.times_done().values()) == {1}


@pytest.mark.contract("S1", "S2")
def test_rows_come_and_go(lab: Lab) -> None:
    lab.run(lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2]"))))
    more = lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3]")), seeds=[0, 1])
    added = {("mask_ratio=0.3", 0), *((f"mask_ratio={ratio}", 1) for ratio in (0.1, 0.2, 0.3))}
    assert set(compare(more, lab.ledger).added) == added
    lab.run(more)
    assert any(line.startswith("extended by 4 runs") for line in lab.said)
    fewer = lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", "[0.3]")))
    lab.run(fewer)
    assert any(line.startswith("left out 5 runs") for line in lab.said)
    assert len(lab.ledger.runs.experiments()) == 1 and set(lab.times_done().values()) == {1}
    assert len(lab.times_done()) == 4 + 6 * 4  # nothing was removed


@pytest.mark.contract("S7")
def test_some_rows_are_computed_and_the_others_stay(lab: Lab) -> None:
    whole = lab.plan()
    some = make_plan(whole.experiment.only(["mask_ratio=0.[12]"]), lab.home, lab.ledger)
    register(some, lab.home, lab.ledger, lab.said.append, whole=whole)
    assert lab.scheduler().run(some, lambda states: None).done == 4 + 2 * 4
    assert [row.row for row in lab.ledger.runs.experiments()] == [f"mask_ratio=0.{i}" for i in (1, 2, 3, 4)]
    assert lab.run().done == 2 * 4 and not any(line.startswith(("left out", "extended")) for line in lab.said)
    with pytest.raises(SpecError, match=r"--rows 0.5: matches no row.*the rows are: mask_ratio=0.1"):
        whole.experiment.only(["0.5"])
    nothing = make_plan(replace(whole.experiment, variants=()), lab.home, lab.ledger)
    with pytest.raises(SpecError, match="nothing to run"):
        lab.register(nothing)


@pytest.mark.contract("S3", "S4")
def test_another_value_in_a_row_with_results_is_refused(lab: Lab) -> None:
    lab.run()
    before = lab.ledger.runs.experiments()
    changed = lab.plan(sets=("optim.steps=20",))
    with pytest.raises(SpecError, match=r"optim.steps: 30 -> 20 \(4 rows, 4 with results\).*--fork.*--name"):
        lab.register(changed)
    assert lab.ledger.runs.experiments() == before
    lab.run(changed, fork=True)
    assert {row.run for row in lab.ledger.runs.experiments()} == {run.key for run in changed.runs}
    assert all(lab.home.job("train", lab.ledger.runs.stages()[row.run]["train"]).result.exists() for row in before)


@pytest.mark.contract("S5")
def test_another_name_makes_another_experiment(lab: Lab) -> None:
    lab.run()
    lab.run(lab.plan(sets=("optim.steps=20",), name="many-short"))
    assert {row.name for row in lab.ledger.runs.experiments()} == {"many", "many-short"}
    assert sum(name.startswith("encode") for name in lab.times_done()) == 1
    with pytest.raises(SpecError, match="--name Many!.*experiment"):
        lab.plan(name="Many!")


@pytest.mark.contract("S6")
def test_what_was_never_computed_may_change(lab: Lab) -> None:
    lab.register(lab.plan())
    lab.register(lab.plan(sets=("optim.steps=20",)))
    assert any("optim.steps: 30 -> 20" in line for line in lab.said)


@pytest.mark.contract("C1")
def test_editing_while_jobs_wait_harms_nothing(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is a copy here, so that it can be broken while the experiment runs."""
    import shutil

    package = tmp_path / "package" / "star"
    shutil.copytree(snapshot.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(snapshot, "PACKAGE", package)
    broken = []

    def break_it(states: object) -> None:
        if not broken and sum("done" in line for line in lab.said) >= 2:
            (package / "worker.py").write_text("raise SystemExit('edited')")
            broken.append(True)

    assert lab.run(tick=break_it).done == 20 and broken
    codes = {read_json(path)["provenance"]["snapshot"]["digest"] for path in lab.home.jobs.glob("*/result.json")}
    assert len(codes) == 1 and len(list(lab.home.code.iterdir())) == 1
    assert "edited" in (snapshot.take(lab.home).path / "star" / "worker.py").read_text()  # the next run has it


@pytest.mark.contract("C2", "C4")
def test_a_raised_version_is_a_fork_that_is_explained(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    lab.run()
    monkeypatch.setitem(STAGES, "probe", replace(STAGES["probe"], version=STAGES["probe"].version + 1))
    changed = lab.plan()
    assert {job.stage for job in changed.to_do} == {"probe"}
    with pytest.raises(SpecError, match=r"probe version: 2 -> 3"):
        lab.register(changed)
    lab.run(changed, fork=True)
    reason = why(lab.ledger, changed.runs[0].stages["probe"])
    assert [str(one) for one in reason.differences or []] == ["version: 2 -> 3"]
    other = why(lab.ledger, changed.runs[1].stages["score"])
    assert str((other.differences or [])[0]) == "train selfguided.mask_ratio: 0.1 -> 0.2"


@pytest.mark.contract("C3")
def test_edited_code_keeps_results_and_says_who_made_them(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from star.scheduler.explain import compare as compare_keys

    package = tmp_path / "package" / "star"
    shutil.copytree(snapshot.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(snapshot, "PACKAGE", package)
    lab.run(lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", "[0.1]"))))
    (package / "errors.py").write_text((package / "errors.py").read_text() + "\n# edited\n")
    plan = lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2]")))
    assert lab.run(plan).done == 4
    found = compare_keys(lab.home, lab.ledger, plan.runs[0].key, plan.runs[1].key)
    assert [one.path for one in found.spec] == ["selfguided.mask_ratio"]
    assert "train code" in [one.path for one in found.provenance]
    assert found.results["probe/accuracy"] == (0.5, 0.5)


def test_a_field_that_is_newer_than_the_runs_is_no_change(lab: Lab) -> None:
    lab.register(lab.plan())
    changed = lab.plan(sets=("probe.epochs=7",))
    row = changed.runs[0]
    (old,) = lab.ledger.runs.of(
        [run.key for run in lab.plan().runs if (run.label, run.seed) == (row.label, row.seed)]
    ).values()
    spec = json.loads(json.dumps(old.spec))
    del spec["optim"]["train_images"], spec["optim"]["schedule"]
    found = spec_differences(replace(old, spec=spec), row)
    assert [one.path for one in found] == ["probe.epochs"]
    given = lab.plan(sets=("probe.epochs=7", "optim.train_images=8")).runs[0]
    assert [one.path for one in spec_differences(replace(old, spec=spec), given)] == [
        "optim.train_images",
        "probe.epochs",
    ]
