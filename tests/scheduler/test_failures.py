"""What ends a job without a result, told apart, and what follows."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star import rundir
from star.errors import DataError, ExecutorError
from star.ledger.states import FAILED, QUEUED
from star.scheduler.executor import Exit
from star.scheduler.failures import classify, last_lines
from star.scheduler.local import LocalExecutor
from star.scheduler.policies import POLICIES, advice, attempts, pause
from star.spec.builtin import builtin_stages
from star.worker import _failed
from tests.helpers import ROOT, tiny
from tests.scheduler.lab import WORKER, Lab
from tests.services import until

TOLD = {"class": "RuntimeError", "message": "CUDA error", "user": False}


@pytest.mark.parametrize(
    ("ended", "told", "log", "kind"),
    [
        (Exit(75), None, "", "preempted"),
        (Exit(None), {"class": "Stopped", "message": "", "user": False}, "", "preempted"),
        (Exit(None, "PREEMPTED"), None, "", "preempted"),
        (Exit(None, "TIMEOUT"), None, "", "timeout"),
        (Exit(76), {"class": "Stopped", "message": "it begins again", "user": False}, "", "timeout"),
        (Exit(None, "OUT_OF_MEMORY"), None, "", "out_of_memory"),
        (Exit(70), {"class": "OutOfMemoryError", "message": "CUDA out of memory", "user": False}, "", "out_of_memory"),
        (Exit(-9), None, "slurmstepd: error: Detected 1 oom_kill event", "out_of_memory"),
        (Exit(70), TOLD, "NVRM: Xid 79, GPU has fallen off the bus", "infrastructure"),
        (Exit(70), TOLD, "GPU 3: uncorrectable ECC error encountered", "infrastructure"),
        (Exit(1), None, "Watchdog caught collective operation timeout: WorkNCCL", "infrastructure"),
        (Exit(None, "NODE_FAIL"), None, "", "infrastructure"),
        (
            Exit(70),
            {"class": "OSError", "message": "[Errno 116] Stale file handle", "user": False},
            "",
            "infrastructure",
        ),
        (Exit(74), None, "", "disk_full"),
        (
            Exit(70),
            {"class": "OSError", "message": "[Errno 28] No space left on device", "user": False},
            "",
            "disk_full",
        ),
        (
            Exit(70),
            {"class": "DataError", "message": "a checkpoint: [Errno 5] ...", "user": False, "passing": True},
            "",
            "infrastructure",
        ),
        (Exit(2), {"class": "DivergedError", "message": "loss is nan", "user": True}, "", "nan"),
        (Exit(2), {"class": "DataError", "message": "no images", "user": True}, "", "user_error"),
        (Exit(70), {"class": "KeyError", "message": "'x'", "user": False}, "Traceback", "error"),
        (Exit(-9), None, "", "died"),
        (Exit(None), None, "", "died"),
        (Exit(3), None, "another worker holds it", "busy"),
        (Exit(None, "CANCELLED"), None, "", "cancelled_outside"),
        (Exit(None, "DEPENDENCY"), None, "", "input_failed"),
    ],
)
def test_ends_are_told_apart(tmp_path: Path, ended: Exit, told: dict[str, object] | None, log: str, kind: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text(f"== attempt 1 · here\nCUDA out of memory, long ago\n== attempt 2 · here\n{log}\n")
    failure = classify(ended, told, path)
    assert failure.kind == kind and failure.policy is POLICIES[kind] and failure.message is not None


def test_a_file_system_that_was_away_is_no_mistake_of_the_user(tmp_path: Path) -> None:
    """Whatever the system's error was wrapped into: the file that could not be read may be whole."""
    folder = rundir.JobDir(tmp_path / "train-0123456789abcdef")
    folder.path.mkdir()
    try:
        try:
            raise OSError(errno.ESTALE, "Stale file handle")
        except OSError as error:
            raise DataError(f"codes.npy: cannot be read: {error}.") from None
    except DataError as error:
        code = _failed(error, folder)
    told = rundir.read_json(folder.failure)
    assert code == rundir.FAILED and told["passing"] and not told["user"]
    assert classify(Exit(code), told | {"message": "codes.npy"}, folder.log).kind == "infrastructure"


def test_every_class_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "resume.md").read_text()
    assert all(f"| `{kind}` |" in text for kind in POLICIES)


def test_only_the_newest_attempts_last_lines_count(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert last_lines(log) == ""
    log.write_bytes(b"old\n== attempt 2 \xc2\xb7 x\n" + b"".join(b"line %d\n" % i for i in range(30)) + b"\xff\n")
    lines = last_lines(log).split("\n")
    assert len(lines) == 20 and lines[0] == "line 11" and lines[-2] == "line 29"


@given(st.integers(0, 200))
def test_pauses_double_up_to_a_limit(before: int) -> None:
    policy = POLICIES["infrastructure"]
    assert policy.pause <= pause(policy, before) <= 600
    assert pause(policy, before + 1) >= pause(policy, before)


def test_less_memory_means_smaller_passes_and_the_same_key() -> None:
    spec = tiny(resources__processes={"train": 2}, resources__sample_batch_size=9)
    for times, sizes in ((0, (None, 50, 9)), (1, (2, 25, 4)), (2, (1, 12, 2)), (5, (1, 1, 1))):
        got = spec.with_smaller_passes(times).resources
        assert (got.micro_batch_size, got.eval_batch_size, got.sample_batch_size) == sizes
        assert got.feature_cache_gb == 8.0 / 2**times


def test_passes_that_cannot_be_smaller_are_not_tried_again() -> None:
    assert attempts("out_of_memory", builtin_stages()["tokenizer"]) == 0
    assert attempts("out_of_memory", builtin_stages()["train"]) == 3
    assert "lower tokenizer.batch_size" in advice("out_of_memory", "tokenizer", "abc")
    assert "lower resources.micro_batch_size" in advice("out_of_memory", "train", "abc")


@pytest.fixture
def lab(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Lab(tmp_path / "home")


def test_out_of_memory_is_tried_with_smaller_passes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_EXIT", "memory")
    plan = lab.plan()
    assert [job.stage for job in lab.run(plan).failed] == ["dataset"]
    job = lab.job(plan, "dataset")
    assert (job.attempt, job.why, job.error_class) == (4, "out_of_memory", "MemoryError")
    spec = json.loads(lab.folder(plan, "dataset").job.read_text())["spec"]
    assert spec["resources"]["eval_batch_size"] == 50 // 8
    assert [row.why for row in lab.ledger.jobs.history(job.key)].count("out_of_memory") == 4


def test_a_machines_fault_is_tried_after_a_pause(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_EXIT", "ecc")
    plan = lab.plan()

    def fixed(states: object) -> None:
        job = lab.job(plan, "dataset")
        if job.state == QUEUED and job.why == "infrastructure":
            monkeypatch.delenv("LIGHT_EXIT", raising=False)
            assert job.not_before is not None and 8 < job.not_before - time.time() <= 10
            raise KeyboardInterrupt  # ten seconds are too long for a test

    assert lab.run(plan, tick=fixed).interrupted
    assert "again in 10 s" in "\n".join(lab.said)


def test_the_first_failure_is_shown_at_once_and_the_rest_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that the disk has no room for: the other three rows are done; room, and the same run, do the rest."""
    plan = lab.plan()
    monkeypatch.setenv("LIGHT_EXIT", "disk")
    monkeypatch.setenv("LIGHT_ONLY", plan.runs[1].stages["train"])
    outcome = lab.run(plan)
    assert [job.key for job in outcome.failed] == [plan.runs[1].stages["train"]] and outcome.done == 16
    assert len(outcome.blocked) == 3
    failed = outcome.failed[0]
    assert failed.why == "disk_full" and "No space left on device" in (failed.error or "")
    shown = [i for i, line in enumerate(lab.said) if line.startswith("FAILED")]
    assert len(shown) == 1 and shown[0] < len(lab.said) - 4 and "star-exp gc" in lab.said[shown[0]]
    monkeypatch.delenv("LIGHT_EXIT")
    assert lab.run().done == 4


def at_work(folder: Path) -> bool:
    """Whether a process was started for a job's folder and has not ended."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(entry.read_bytes())
    return any(str(folder).encode() in line for line in lines)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home on a disk of 8 MB, which something else fills while a training writes checkpoints."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        lab = Lab(disk / "home")
        plan = lab.plan()
        lab.run(plan)
        long = lab.plan(sets=("optim.steps=20",), name="long")
        monkeypatch.setenv("LIGHT_STEPS", "200")
        monkeypatch.setenv("LIGHT_SECONDS", "0.02")
        saved = lab.folder(long, "train").checkpoints / "state.json"
        filler, full = disk / "filler", threading.Event()

        def fill(states: object) -> None:
            if saved.exists() and not full.is_set():
                full.set()
                monkeypatch.setenv("LIGHT_SECONDS", "0")  # what is started later is quick
                with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(1 << 16))

        def make_room() -> None:
            full.wait(200)
            until(lambda: not at_work(lab.folder(long, "train").path), "the end of the training")
            time.sleep(1)  # the scheduler must do without room for a while, too
            filler.unlink()

        helper = threading.Thread(target=make_room)
        helper.start()
        outcome = lab.run(long, tick=fill)
        helper.join()
        kinds = {job.why for job in outcome.failed}
        assert kinds == {"disk_full"} and all(
            "No space left" in (job.error or "") or job.error for job in outcome.failed
        )
        assert 0 < json.loads(saved.read_text())["done"] < 200  # whole, from before
        monkeypatch.setenv("LIGHT_SECONDS", "0")
        monkeypatch.setenv("LIGHT_STEPS", "200")
        assert lab.run(lab.plan(sets=("optim.steps=20",), name="long")).failed == []
        assert {job.state for job in lab.ledger.jobs.of().values()} == {"done"}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_status_says_class_message_lines_and_what_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers import star_exp

    monkeypatch.setenv("LIGHT_EXIT", "bug")
    lab.run()
    assert lab.ledger.jobs.of_state(FAILED)
    shown = star_exp("status", home=lab.path).stdout
    assert "failed    dataset" in shown and "ValueError: a slip" in shown
    assert 'raise ValueError("a slip")' in shown and "star-exp logs" in shown


def test_an_executor_that_has_no_answer_is_asked_again_after_a_pause(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path / "home")
    monkeypatch.setattr("star.scheduler.loop.REFUSED", 0.5)
    executor, asked = LocalExecutor(2, gpus=list, worker=WORKER), []
    place = executor.place

    def silent_once(stage: str, resources: Any, held: Any) -> Any:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise ExecutorError("the GPUs do not answer")
        return place(stage, resources, held)

    monkeypatch.setattr(executor, "place", silent_once)
    assert lab.run(executor=executor).failed == []
    assert lab.said.count("waiting  the GPUs do not answer") == 1 and asked[2] - asked[1] >= 0.5
