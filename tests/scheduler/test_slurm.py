"""What happens on a cluster, on a real Slurm of two nodes: cancelled, requeued, preempted, drained, left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from star.ledger.states import CANCELLED, DONE, QUEUED, RUNNING, Job
from star.pipeline.config import ResourceSpec
from star.rundir import JobDir, read_json
from star.scheduler.executor import Start, Watched
from star.scheduler.plan import Plan
from star.scheduler.slurm import SlurmExecutor
from tests.helpers import ROOT, job_in, star_exp, tiny
from tests.scheduler.lab import MANY, WORKER, Lab
from tests.services import Slurm, until


@pytest.fixture
def lab(images: Path, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Lab(tmp_path / "home")


def small(lab: Lab, *sets: str) -> Plan:
    """Two jobs, one after the other: dataset, tokenizer."""
    file = lab.file(("targets: [score, probe]", "targets: [tokenizer]"), ("probe/accuracy", "tokenizer/psnr"))
    return lab.plan(file, sets)


def engine(lab: Lab) -> SlurmExecutor:
    return SlurmExecutor(lab.home, worker=WORKER, every=0.2)


def number_of(lab: Lab, plan: Plan, stage: str, row: int = 0) -> str:
    """Slurm's number of a running job."""
    handle = lab.job(plan, stage, row).handle
    return str(handle["job"]) if handle else ""


def steps_of(folder: JobDir) -> list[int]:
    return (
        [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
        if folder.metrics.exists()
        else []
    )


def once(condition: Callable[[], bool], action: Callable[[], None]) -> Callable[[dict[str, Job]], None]:
    """A tick that does something the first time that a condition holds."""
    done: list[bool] = []

    def tick(states: dict[str, Job]) -> None:
        if not done and condition():
            done.append(True)
            action()

    return tick


def test_a_chain_is_handed_over_and_the_login_node_left(
    lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run --detach`: everything waits in Slurm's own queue; `status` sees it, a later `run` finds it all done."""
    monkeypatch.setenv("LIGHT_SECONDS", "0.3")
    nodes = ",".join(slurm("sinfo", "--noheader", "--Node", "--format=%N").split())
    slurm(
        "scontrol", "update", f"nodename={nodes}", "state=drain", "reason=test"
    )  # nothing starts before it was looked at
    line = [sys.executable, "-m", "tests.light.cli", "run", str(MANY), "--executor", "slurm", "--detach"]
    done = subprocess.run([*line, "--home", str(lab.path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "handed 20 jobs to slurm" in done.stdout, done.stdout + done.stderr
    handed = lab.ledger.jobs.of_state(RUNNING)
    assert lab.ledger.schedulers.all() == {} and len(handed) == 20
    arrays = {str(job.handle["job"]).partition("_")[0] for job in handed if job.handle}
    assert len(arrays) == 8, "one by one what all rows share, and an array of each stage of the four rows"
    # Slurm first names the nodes that are away, and what a job waits for when its scheduler comes round to it
    until(lambda: "pending (Dependency)" in star_exp("status", home=lab.path).stdout, "status names the dependency")
    slurm("scontrol", "update", f"nodename={nodes}", "state=resume")
    until(lambda: len(lab.times_done()) == 20, "Slurm does it all")
    assert {row["state"] for row in json.loads(star_exp("status", "--json", home=lab.path).stdout)["open_jobs"]} <= {
        "done"
    }
    plan = lab.plan()
    assert not plan.to_do
    lab.run(plan, engine(lab))
    assert {job.state for job in lab.ledger.jobs.of().values()} == {DONE} and set(lab.times_done().values()) == {1}


def test_a_scheduler_that_died_attaches_to_what_slurm_runs(
    lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHT_STEPS", "20")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    plan = lab.plan()
    line = [
        sys.executable,
        "-m",
        "tests.light.cli",
        "run",
        str(MANY),
        "--executor",
        "slurm",
        "--plain",
        "--home",
        str(lab.path),
    ]
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: bool(steps_of(lab.folder(plan, "tokenizer"))), "the tokenizer trains")
    number = number_of(lab, plan, "tokenizer")
    first.kill()
    first.wait()
    monkeypatch.setenv("LIGHT_SECONDS", "0")
    outcome = lab.run(small(lab), engine(lab))
    assert outcome.failed == [] == outcome.cancelled and lab.job(plan, "tokenizer").attempt == 1
    assert slurm.state(number) == "COMPLETED" and set(lab.times_done().values()) == {1}


def test_scancel_by_hand_cancels_and_the_rest_goes_on(lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lab.plan()
    monkeypatch.setenv("LIGHT_STEPS", "10")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    victim = lab.folder(plan, "train", 1)
    tick = once(lambda: bool(steps_of(victim)), lambda: void(slurm("scancel", number_of(lab, plan, "train", 1))))
    outcome = lab.run(plan, engine(lab), tick=tick)
    assert [job.key for job in outcome.cancelled] == [plan.runs[1].stages["train"]] and len(outcome.blocked) == 3
    job = lab.job(plan, "train", 1)
    assert (job.state, job.why) == (CANCELLED, "cancelled_outside")
    assert read_json(victim.failure)["class"] == "Stopped"  # it saved its state all the same
    assert lab.run(executor=engine(lab)).done == 4 and steps_of(victim) == list(range(1, 11))


def interrupted_and_gone_on(lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Interrupt both jobs of a plan; returns whether each went on under its number, as the first attempt."""
    plan = small(lab)
    monkeypatch.setenv("LIGHT_STEPS", "30")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    interrupted: dict[str, str] = {}

    def limit() -> None:
        interrupted["dataset"] = number_of(lab, plan, "dataset")
        slurm("scancel", "--signal=USR2", interrupted["dataset"])

    def requeue() -> None:
        interrupted["tokenizer"] = number_of(lab, plan, "tokenizer")
        slurm("scontrol", "requeue", interrupted["tokenizer"])
        monkeypatch.setenv("LIGHT_SECONDS", "0")

    ticks = [
        once(lambda: len(steps_of(lab.folder(plan, "dataset"))) > 3, limit),
        once(lambda: len(steps_of(lab.folder(plan, "tokenizer"))) > 3, requeue),
    ]
    outcome = lab.run(plan, engine(lab), tick=lambda states: [tick(states) for tick in ticks] and None)
    assert outcome.done == 2
    stages = ("dataset", "tokenizer")
    for stage in stages:
        assert steps_of(lab.folder(plan, stage)) == list(range(1, 31))
        if lab.job(plan, stage).attempt == 1:
            assert "Restarts=1" in slurm("scontrol", "show", "job", interrupted[stage])
    assert set(lab.times_done().values()) == {1}
    return all(lab.job(plan, stage).attempt == 1 for stage in stages)


def test_a_time_limit_and_a_requeue_go_on_under_the_same_number(
    lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """USR2 is what Slurm sends before a time limit; `scontrol requeue` is what an operator types."""
    # on a machine that is busy Slurm shows a requeued job as ended for an instant, once in dozens of times: it goes on as a
    # second attempt then, and loses nothing
    again = Lab(tmp_path / "again")
    assert any(interrupted_and_gone_on(one, slurm, monkeypatch) for one in (lab, again))


def ran_out_of_time(lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, stage: str, restarts: int) -> list[Job]:
    """Tell a job `restarts + 1` times that its time is over; returns what has failed."""
    sets = (f"resources.{stage}.minutes=1", "resources.slurm.timeouts=1")  # of one minute any USR2 is the last
    plan = small(lab, *sets)
    monkeypatch.setenv("LIGHT_STEPS", "200")
    monkeypatch.setenv("LIGHT_SECONDS", "0.05")
    asked: list[int] = []
    begun: dict[int, int] = {}

    def tick(states: dict[str, Job]) -> None:
        number = number_of(lab, plan, stage)
        if len(asked) > restarts or not number:
            return
        shown, steps = slurm("scontrol", "show", "job", number), len(steps_of(lab.folder(plan, stage)))
        if "JobState=RUNNING" not in shown or f"Restarts={len(asked)}" not in shown:
            return  # it waits, or still stops for the last time
        if steps > begun.setdefault(len(asked), steps) + 3:  # its worker is at it
            asked.append(steps)
            slurm("scancel", "--signal=USR2", number)

    return lab.run(plan, engine(lab), tick=tick).failed


@pytest.mark.parametrize("stage, restarts", [("dataset", 0), ("tokenizer", 1)])
def test_time_that_runs_out_once_too_often(
    lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str, restarts: int
) -> None:
    """Of a stage that keeps nothing at once, else after `slurm.timeouts`: told as such, with what to raise, and not tried again."""
    used = lab
    failed = ran_out_of_time(lab, slurm, monkeypatch, stage, restarts)
    if not failed and restarts:  # a requeued job that Slurm showed as ended for an instant, as above
        used = Lab(tmp_path / "again")
        failed = ran_out_of_time(used, slurm, monkeypatch, stage, restarts)
    assert len(failed) == 1, used.said
    job = failed[0]
    assert (job.stage, job.attempt, job.why, job.error_class) == (stage, 1, "timeout", "timeout"), used.said
    assert job.error is not None and job.error.startswith("it reached its time limit")
    assert f"raise resources.{stage}.minutes" in "\n".join(used.said)


def test_preempted_by_somebody_more_urgent(
    lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = small(lab, "resources.threads={dataset: 2}")
    monkeypatch.setenv("LIGHT_STEPS", "40")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    script = tmp_path / "urgent.sh"
    script.write_text("#!/bin/bash\nsleep 1\n")

    def urgent() -> None:
        slurm("sbatch", "-p", "urgent", "-N", "2", "-n", "4", "-o", "/dev/null", script)
        monkeypatch.setenv("LIGHT_SECONDS", "0")

    folder = lab.folder(plan, "dataset")
    outcome = lab.run(plan, engine(lab), tick=once(lambda: len(steps_of(folder)) > 3, urgent))
    assert outcome.done == 2 and steps_of(folder) == list(range(1, 41))
    assert "stopped on request" in folder.log.read_text() and set(lab.times_done().values()) == {1}


def test_a_drained_node_and_a_lost_one(lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drained: what runs there ends there, the rest runs elsewhere. Down: Slurm itself starts its jobs again."""
    plan = small(lab)
    monkeypatch.setenv("LIGHT_STEPS", "15")
    monkeypatch.setenv("LIGHT_SECONDS", "0.1")
    nodes: list[str] = []

    def drain() -> None:
        shown = slurm("scontrol", "show", "job", number_of(lab, plan, "dataset"))
        nodes.append(shown.partition(" NodeList=")[2].split()[0])
        slurm("scontrol", "update", f"nodename={nodes[0]}", "state=drain", "reason=test")

    def lose() -> None:
        shown = slurm("scontrol", "show", "job", number_of(lab, plan, "tokenizer"))
        nodes.append(shown.partition(" NodeList=")[2].split()[0])
        slurm("scontrol", "update", f"nodename={nodes[0]}", "state=resume")
        slurm("scontrol", "update", f"nodename={nodes[1]}", "state=down", "reason=test")
        monkeypatch.setenv("LIGHT_SECONDS", "0")
        threading.Timer(3, lambda: void(slurm("scontrol", "update", f"nodename={nodes[1]}", "state=resume"))).start()

    ticks = [
        once(lambda: bool(steps_of(lab.folder(plan, "dataset"))), drain),
        once(lambda: len(steps_of(lab.folder(plan, "tokenizer"))) > 2, lose),
    ]
    outcome = lab.run(plan, engine(lab), tick=lambda states: [tick(states) for tick in ticks] and None)
    assert outcome.done == 2 and nodes[0] != nodes[1]
    assert lab.job(plan, "dataset").attempt == 1
    assert steps_of(lab.folder(plan, "tokenizer")) == list(range(1, 16))
    until(lambda: slurm("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", "both nodes are back")


def test_a_refused_job_waits_and_says_why(lab: Lab, slurm: Slurm) -> None:
    plan = lab.plan(sets=("resources.slurm.partition=nowhere",))

    def stop(states: dict[str, Job]) -> None:
        if any("invalid partition" in line.lower() for line in lab.said):
            raise KeyboardInterrupt

    assert lab.run(plan, engine(lab), tick=stop).interrupted
    job = lab.job(plan, "dataset")
    assert job.state == QUEUED and job.not_before is not None and job.not_before > time.time()


def test_a_question_that_slurm_does_not_answer_proves_nothing(
    lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    import star.scheduler.squeue as squeue

    executor, ask, away = engine(lab), squeue.ask, [True]
    monkeypatch.setattr(squeue, "ask", lambda command: None if away else ask(command))
    unknown = Watched(JobDir(lab.path / "x"), "star-train-x-1", {"job": "987654"}, "@slurm")
    executor.every = 0.0  # every look is a question
    assert [executor.poll([unknown]) for _ in range(3)] == [[None]] * 3
    away.clear()
    assert executor.poll([unknown]) == [None]  # missed once may be an accident
    assert executor.poll([unknown])[0] is not None


def test_what_a_job_asks_slurm_for(lab: Lab, slurm: Slurm, tmp_path: Path) -> None:
    resources = ResourceSpec.model_validate(
        {
            "threads": {"train": 1},
            "minutes": {"train": 90},
            "memory_gb": {"train": 0.5},
            "slurm": {"partition": "urgent", "setup": ["export FROM_SETUP=yes"], "options": {"comment": "hello"}},
        }
    )
    job = job_in(tmp_path / "job", "train", tiny())
    executor = engine(lab)
    claim, title = executor.place("train", resources, None), ("mine", "train", "row 1")
    start = Start(job, "train", "star-train-x-1", ROOT, resources, claim, title=title)
    number = executor.submit([start])[0]["job"]
    shown = slurm("scontrol", "show", "job", number)
    for wanted in ("Partition=urgent", "TimeLimit=01:30:00", "MinMemoryNode=512M", "Comment=hello", "Requeue=1"):
        assert wanted in shown, shown
    assert "JobName=mine.train.row_1." in shown
    (script,) = (lab.path / "slurm").glob(f"{number}_submission.sh")
    assert "wckey" not in script.read_text()
    slurm("scancel", number)


def test_another_interpreter_behind_a_launcher(
    lab: Lab, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container or an environment of conda's: what stands before the interpreter sees every job."""
    launcher, python = tmp_path / "launch.sh", tmp_path / "my python"
    launcher.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/launched.txt\nexport LAUNCHED=yes\nexec "$@"\n')
    launcher.chmod(0o755)
    python.symlink_to(sys.executable)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{next(path for path in sys.path if path.endswith('site-packages'))}")
    resources = f"resources.slurm={{launcher: '{launcher} --', python: '{python}', srun: ['--label']}}"
    launcher.write_text(launcher.read_text().replace('exec "$@"', 'shift\nexec "$@"'))
    outcome = lab.run(small(lab, resources), engine(lab))
    assert outcome.done == 2 and not outcome.failed
    assert f"-- {python} -u -m submitit.core._submit" in (tmp_path / "launched.txt").read_text()


def test_an_array_waits_element_by_element(lab: Lab, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four trainings one fails: what needs it never starts, and the others' are done."""
    plan = lab.plan()
    victim = plan.runs[2].stages["train"]
    monkeypatch.setenv("LIGHT_EXIT", "user")
    monkeypatch.setenv("LIGHT_ONLY", victim)
    lab.register(plan)
    assert lab.scheduler(engine(lab)).hand_over(plan)
    lost = {plan.runs[2].stages[stage] for stage in ("train", "generate", "score", "probe")}
    until(lambda: len(lab.times_done()) == 16, "all others are done")
    until(lambda: not slurm("squeue", "--noheader", "--me").strip(), "and nothing waits for ever")
    assert not {key for key in lost if any(key in name for name in lab.times_done())}


def test_a_training_on_two_machines(images: Path, lab: Lab, slurm: Slurm, made_codes: Path, tmp_path: Path) -> None:
    """The real worker: one torchrun agent on each node, one process each, which meet and train together."""
    spec = tiny(resources__nodes={"train": 2}, optim__steps=10)
    job = job_in(tmp_path / "job", "train", spec, encode=made_codes)
    content = read_json(job.job)
    job.job.write_text(json.dumps({**content, "nodes": 2, "attempt": 1}))
    executor = SlurmExecutor(lab.home, every=0.2)
    start = Start(
        job,
        "train",
        f"star-train-two-{os.getpid()}-1",
        ROOT,
        spec.resources,
        executor.place("train", spec.resources, None),
    )
    number = executor.submit([start])[0]["job"]
    until(lambda: slurm.state(number) in ("COMPLETED", "FAILED"), "two machines train")
    assert slurm.state(number) == "COMPLETED", job.log.read_text()[-3000:]
    assert "NumNodes=2" in slurm("scontrol", "show", "job", number)
    result = read_json(job.result)
    assert (result["provenance"]["processes"], result["provenance"]["nodes"]) == (2, 2)
    assert result["provenance"]["slurm_job"] == number


@pytest.fixture
def made_codes(prepared: Path) -> Path:
    """An `encode` job that is done."""
    return next(prepared.glob("jobs/encode-*"))


def void(result: object) -> None:
    """For lambdas."""
