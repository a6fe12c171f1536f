"""docs/resume.md, line by line: each test carries the numbers of the lines that it holds."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import star.scheduler.snapshot as snapshot
from star.errors import LedgerError, SpecError
from star.ledger.states import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Claim
from star.ledger.store import open_ledger
from star.rundir import Home, read_json, write_json
from star.scheduler.contract import compare
from star.scheduler.explain import why
from star.scheduler.local import LocalExecutor
from star.scheduler.verbs import cancel, choose, rerun, retry
from star.spec.graph import STAGES
from tests.helpers import ROOT
from tests.scheduler.lab import MANY, WORKER, Lab
from tests.services import until


@pytest.fixture
def lab(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("STAR_LEDGER_URL", raising=False)
    return Lab(tmp_path / "home")


def command(lab: Lab, *options: str) -> subprocess.Popen[str]:
    """`star-exp run` in a process of its own."""
    line = [
        sys.executable,
        "-m",
        "tests.light.cli",
        "run",
        str(MANY),
        "--plain",
        "--slots",
        "2",
        "--home",
        str(lab.path),
    ]
    return subprocess.Popen(
        [*line, "--out", str(lab.path / "reports"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers(lab: Lab) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if WORKER in line and str(lab.home.path) in line[-1] and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_every_line_of_the_contract_has_a_test() -> None:
    lines = re.findall(r"^\| ([A-Z]\d) \|", (ROOT / "docs" / "resume.md").read_text(), re.M)
    carried = re.findall(r"@pytest.mark.contract\((.*?)\)", Path(__file__).read_text())
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
    assert {(row.name, row.profile) for row in lab.ledger.experiments()} == {("many", "tiny"), ("other", "tiny")}


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
    assert [row.after for row in lab.ledger.history(plan.runs[0].stages["tokenizer"])] == [
        QUEUED,
        RUNNING,
        RUNNING,
        DONE,
    ]


@pytest.mark.contract("F2")
def test_a_result_that_nobody_saw_is_found(lab: Lab) -> None:
    plan = lab.plan()
    lab.enter(plan)
    job = lab.job(plan, "dataset")
    held = lab.ledger.claim(job, "a scheduler that is gone", "started", Claim("this", 1))
    assert held is not None
    scheduler = lab.scheduler()
    start = scheduler.starter._prepare(plan.jobs[job.key], held, Claim("this", 1))
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
    out = running.communicate(timeout=60)[0]
    assert running.returncode == 130 and "the same command goes on" in out
    assert workers(lab) == [] and lab.ledger.schedulers() == {}
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
    lab.enter(plan)
    job = plan.jobs[plan.runs[0].stages["dataset"]]
    scheduler = lab.scheduler()
    held = lab.ledger.claim(lab.job(plan, "dataset"), "old", "started", Claim("elsewhere", 1))
    assert held is not None
    start = scheduler.starter._prepare(job, held, Claim("elsewhere", 1))
    older = subprocess.Popen([sys.executable, "-m", WORKER, str(start.job.path)], stderr=subprocess.DEVNULL)
    until(start.job.metrics.exists, "the older worker is at it")
    content = read_json(start.job.job)
    write_json(start.job.job, {**content, "attempt": 2})  # as a scheduler does that takes it for dead
    assert older.wait(timeout=60) == 3
    assert not start.job.result.exists() and not start.job.out.exists()


@pytest.mark.contract("F6")
def test_a_worker_that_was_not_noted_down_is_found(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "40")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan = lab.plan()
    lab.enter(plan)
    executor = LocalExecutor(2, gpus=list, worker=WORKER)
    first = lab.scheduler(executor)
    held = lab.ledger.claim(lab.job(plan, "dataset"), "it died at once", "started", Claim(executor.host, 1))
    assert held is not None
    executor.submit([first.starter._prepare(plan.jobs[held.key], held, Claim(executor.host, 1))])
    monkeypatch.setenv("LIGHT_STEPS", "1")
    monkeypatch.setenv("LIGHT_SECONDS", "0")
    assert lab.run().done == 20
    assert lab.job(plan, "dataset").attempt == 1 and set(lab.times_done().values()) == {1}


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
    assert len(lab.ledger.experiments()) == 1 and set(lab.times_done().values()) == {1}
    assert len(lab.times_done()) == 4 + 6 * 4  # nothing was removed


@pytest.mark.contract("S3", "S4")
def test_another_value_in_a_row_with_results_is_refused(lab: Lab) -> None:
    lab.run()
    before = lab.ledger.experiments()
    changed = lab.plan(sets=("optim.steps=20",))
    with pytest.raises(SpecError, match=r"optim.steps: 30 -> 20 \(4 rows, 4 with results\).*--fork.*--name"):
        lab.enter(changed)
    assert lab.ledger.experiments() == before
    lab.run(changed, fork=True)
    assert {row.run for row in lab.ledger.experiments()} == {run.key for run in changed.runs}
    assert all(lab.home.job("train", lab.ledger.run_stages()[row.run]["train"]).result.exists() for row in before)


@pytest.mark.contract("S5")
def test_another_name_makes_another_experiment(lab: Lab) -> None:
    lab.run()
    lab.run(lab.plan(sets=("optim.steps=20",), name="many-short"))
    assert {row.name for row in lab.ledger.experiments()} == {"many", "many-short"}
    assert sum(name.startswith("encode") for name in lab.times_done()) == 1
    with pytest.raises(SpecError, match="--name Many!.*experiment"):
        lab.plan(name="Many!")


@pytest.mark.contract("S6")
def test_what_was_never_computed_may_change(lab: Lab) -> None:
    lab.enter(lab.plan())
    lab.enter(lab.plan(sets=("optim.steps=20",)))
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
        lab.enter(changed)
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


@pytest.mark.contract("V1", "V2")
def test_retry_is_a_verb_on_states(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lab.plan()
    lab.enter(plan)
    monkeypatch.setenv("LIGHT_EXIT", "user")
    lab.run(plan)
    monkeypatch.delenv("LIGHT_EXIT")
    failed = lab.job(plan, "dataset")
    assert (failed.why, failed.error_class) == ("user_error", "DataError") and failed.attempt == 1
    waiting = lab.ledger.of_state(QUEUED)
    assert [job.key for job in retry(lab.ledger, [*waiting, failed])] == [failed.key]
    assert lab.job(plan, "dataset").state == QUEUED
    assert lab.run().done == 20
    assert retry(lab.ledger, lab.ledger.jobs().values()) == []
    monkeypatch.setenv("LIGHT_EXIT", "user")
    extended = lab.plan(seeds=[0, 1])
    lab.run(extended)
    monkeypatch.delenv("LIGHT_EXIT")
    assert lab.run(lab.plan(seeds=[0, 1])).done > 0 and lab.ledger.of_state(FAILED) == []


@pytest.mark.contract("V3")
def test_cancel_stops_what_runs_and_what_waits(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "200")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan, running = lab.plan(), command(lab)
    until(lambda: lab.folder(plan, "dataset").metrics.exists(), "the first worker is at it")
    chosen = choose(lab.ledger, [plan.runs[0].key], None, alone=True)
    assert {job.stage for job in chosen.jobs.values()} == {"train", "generate", "score", "probe"}
    assert {job.stage for job in lab.ledger.jobs(chosen.shared).values()} == {
        "dataset",
        "tokenizer",
        "encode",
        "reference",
    }
    whole = choose(lab.ledger, [], "many").jobs.values()
    left = cancel(lab.home, lab.ledger, whole, lambda name: LocalExecutor(1, gpus=list), lab.said.append)
    assert left == [] and {job.state for job in lab.ledger.jobs().values()} == {CANCELLED}
    assert running.wait(timeout=60) == 1 and workers(lab) == []
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


@pytest.mark.contract("P1", "P4")
def test_two_people_share_the_work(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlapping experiments in two processes on two cores: each job once, never more than two at a time."""
    monkeypatch.setenv("LIGHT_STEPS", "4")
    monkeypatch.setenv("LIGHT_SECONDS", "0.05")
    other = lab.file(("experiment: many", "experiment: other"), ("[0.1, 0.2, 0.3, 0.4]", "[0.2, 0.3, 0.5]"))
    plan = lab.plan(other)
    lab.enter(plan)
    seen = []
    first = command(lab)
    outcome = lab.scheduler().run(plan, lambda states: seen.append(len(workers(lab))))
    assert first.wait(timeout=120) == 0 and outcome.failed == [] == outcome.blocked
    assert set(lab.times_done().values()) == {1} and len(lab.times_done()) == 24
    assert max(seen) <= 2
    owners = {row.owner for key in lab.ledger.jobs() for row in lab.ledger.history(key) if row.why == "started"}
    assert len(owners) == 2, "one of them did it all"


@pytest.mark.contract("P2")
def test_a_living_scheduler_adopts_what_a_dead_one_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "25")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    first = command(lab, "--set", "resources.threads={tokenizer: 1}")
    plan = lab.plan()
    until(lambda: lab.folder(plan, "tokenizer").metrics.exists(), "workers are at it")
    monkeypatch.setenv("LIGHT_STEPS", "1")
    plan = lab.plan()
    threading.Timer(0.7, lambda: os.kill(first.pid, signal.SIGKILL)).start()
    outcome = lab.run(plan)
    first.wait()
    assert outcome.failed == [] and {job.state for job in lab.ledger.jobs().values()} == {DONE}
    assert any(row.why == "adopted" for key in lab.ledger.jobs() for row in lab.ledger.history(key))
    assert set(lab.times_done().values()) == {1}


@pytest.mark.contract("P2")
def test_what_a_dead_scheduler_of_another_experiment_left_holds_no_room(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "20")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    first = command(lab, "--set", "optim.steps=20", "--name", "first")
    plan = lab.plan(sets=("optim.steps=20",), name="first")
    until(lambda: len(workers(lab)) == 2, "two workers fill the machine")
    first.kill()
    first.wait()
    monkeypatch.setenv("LIGHT_STEPS", "1")
    other = lab.file(("experiment: many", "experiment: second"), ("table:", "base: {data: {test_images: 150}}\ntable:"))
    outcome = lab.run(lab.plan(other))
    assert outcome.failed == [] == outcome.blocked
    assert lab.job(plan, "tokenizer").state == DONE, "it ran to its end, and was settled"


@pytest.mark.contract("V4")
def test_rerun_leaves_a_running_reader_its_input(lab: Lab) -> None:
    plan = lab.plan()
    lab.run(plan)
    rerun(lab.home, lab.ledger, [lab.job(plan, "probe")])
    assert lab.ledger.claim(lab.job(plan, "probe"), "me", "started", Claim("here", 1))
    with pytest.raises(SpecError, match="is running, and reads what would be made anew"):
        rerun(lab.home, lab.ledger, [lab.job(plan, "train")])
    assert lab.folder(plan, "train").result.exists()


def test_numbers_without_their_output_are_no_result(lab: Lab) -> None:
    """`gc` took the output, it is wanted again, and the scheduler died before it could begin."""
    plan = lab.plan()
    lab.run(plan)
    (lab.folder(plan, "encode").out / ".removed").touch()
    lab.enter(lab.plan(seeds=[0, 1]))
    assert lab.ledger.claim(lab.job(plan, "encode"), "it died at once", "started", Claim(socket.gethostname(), 1))
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
    lab.enter(lab.plan())
    with pytest.raises(LedgerError, match="belongs to the home"):
        open_ledger(Home(tmp_path / "elsewhere"))


def test_time_passes(lab: Lab) -> None:
    """Pauses between attempts are kept, and other jobs run meanwhile."""
    plan = lab.plan()
    lab.enter(plan)
    job = lab.job(plan, "dataset")
    held = lab.ledger.claim(job, "x", "started", Claim("y", 1))
    assert held is not None
    lab.ledger.move(held, QUEUED, "infrastructure", "a lost node", not_before=time.time() + 1.5)
    began = time.time()
    assert lab.run().done == 20 and time.time() - began > 1.4
