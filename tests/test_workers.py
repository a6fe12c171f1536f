"""Workers of the long stages, killed at random moments, alone and several on one job: what they make is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from star.checkpoint import Checkpoints
from star.errors import DataError, Stopped
from star.pipeline import STAGES as GRAPH
from star.pipeline.config import RunSpec
from star.rundir import DONE, PREEMPTED, STOPPED, USER_ERROR, JobDir, read_json
from star.scheduler.policies import advice, attempts
from star.scheduler.worker_process import worker_environment
from star.spec.builtin import goes_on
from star.worker import _Progress, check_result
from tests.helpers import ROOT, context, job_in, start_worker, tiny, work
from tests.stage_code import CODE

IMAGES = 1100
SPEC = tiny(data__train_images=IMAGES, optim__steps=120, generate__num_images=1100, resources__checkpoint_every=15)


@pytest.fixture(scope="module")
def made(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage up to `generate`, undisturbed, each in a job's folder with its output in `out`."""
    home = tmp_path_factory.mktemp("made")
    for stage, inputs in (
        ("dataset", []),
        ("tokenizer", ["dataset"]),
        ("encode", ["dataset", "tokenizer"]),
        ("train", ["encode"]),
        ("generate", ["train", "tokenizer"]),
    ):
        if stage == "train":
            assert work(job_in(home / stage, stage, SPEC, encode=home / "encode")) == DONE
        else:
            CODE[stage](context(SPEC, stage, home, **{name: home / name / "out" for name in inputs}))
    return home


def job_of(made: Path, folder: Path, stage: str, processes: int = 1, spec: RunSpec = SPEC) -> JobDir:
    inputs = {
        "tokenizer": ["dataset"],
        "encode": ["dataset", "tokenizer"],
        "train": ["encode"],
        "generate": ["train", "tokenizer"],
    }[stage]
    return job_in(folder, stage, spec, processes, **{name: made / name for name in inputs})


def family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def signs(job: JobDir) -> int:
    """How much work has left a trace: recorded steps and finished shards."""
    lines = job.metrics.read_bytes().count(b"\n") if job.metrics.exists() else 0
    return lines + sum(1 for _ in job.checkpoints.glob("**/*.shards/*"))


def killed_until_done(job: JobDir, rng: random.Random, kills: int, most: int) -> int:
    """Start a worker again and again; the first `kills` are killed, all of their processes or one of them.

    A moment is up to `most` signs of new work after the attempt has begun, and a few milliseconds. Returns how many were
    killed in the middle.
    """
    hit = 0
    for _ in range(kills):
        known = job.log.stat().st_size if job.log.exists() else 0
        before, worker = signs(job), start_worker(job)
        wanted = before + rng.randint(0, most)
        until(lambda: b" pid " in job.log.read_bytes()[known:] or worker.poll() is not None)  # noqa: B023
        until(lambda: signs(job) >= wanted or worker.poll() is not None)  # noqa: B023
        time.sleep(rng.uniform(0, 0.03))  # anywhere inside a step
        victims = family(worker.pid)
        for process in victims if rng.random() < 0.5 or len(victims) < 2 else [rng.choice(victims)]:
            process.send_signal(signal.SIGKILL)
        worker.wait(timeout=200)
        psutil.wait_procs(victims, timeout=200)
        if job.result.exists():
            return hit
        hit += 1
    assert work(job) == DONE, job.log.read_text()[-3000:]
    return hit


def until(condition: Callable[[], bool], timeout: float = 300) -> None:
    deadline = time.time() + timeout
    while not condition():
        assert time.time() < deadline, "nothing happened"
        time.sleep(0.01)


def losses(job: JobDir) -> dict[int, float]:
    lines = [json.loads(line) for line in job.metrics.read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line["metrics"]]
    found = {line["step"]: line["metrics"]["loss"] for line in lines if "loss" in line["metrics"]}
    assert len(found) == len(steps), "a step stands twice"
    return found


def state(job: JobDir) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(job.out / "student.pt", weights_only=True)
    return loaded


def test_training_killed_at_random_is_bit_identical(made: Path, tmp_path: Path) -> None:
    job = job_of(made, tmp_path / "job", "train")
    assert killed_until_done(job, random.Random(0), kills=2, most=4) == 2
    assert losses(job) == losses(JobDir(made / "train"))
    expected = state(JobDir(made / "train"))
    assert all(torch.equal(value, expected[key]) for key, value in state(job).items())


def test_a_tokenizer_killed_at_random_is_bit_identical(made: Path, tmp_path: Path) -> None:
    """Also between a restart of unused codes, which draws, and the next checkpoint."""
    spec = tiny(data__train_images=IMAGES, tokenizer__steps=90, tokenizer__restart_every=7)
    spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"checkpoint_every": 9})})
    undisturbed = job_of(made, tmp_path / "undisturbed", "tokenizer", spec=spec)
    assert work(undisturbed) == DONE, undisturbed.log.read_text()[-3000:]
    job = job_of(made, tmp_path / "job", "tokenizer", spec=spec)
    assert killed_until_done(job, random.Random(1), kills=2, most=3) == 2
    assert losses(job) == losses(undisturbed) and len(losses(job)) == 9
    first, second = (torch.load(one.out / "vq.pt", weights_only=True) for one in (undisturbed, job))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("stage", ["tokenizer", "encode"])
def test_what_is_said_to_be_saved_is_saved(made: Path, tmp_path: Path, stage: str) -> None:
    spec = SPEC.model_copy(update={"tokenizer": SPEC.tokenizer.model_copy(update={"steps": 300})})
    job = job_of(made, tmp_path / "job", stage, spec=spec)
    worker = start_worker(job)
    until(lambda: signs(job) > 0 or worker.poll() is not None)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=200) == PREEMPTED, job.log.read_text()[-3000:]
    failure = json.loads(job.failure.read_text())
    assert failure["class"] == STOPPED and not failure["user"]
    if stage == "tokenizer":
        assert failure["message"] == f"the state after step {newest(job)} is saved" and newest(job) >= 10
    else:
        assert failure["message"] == "it goes on after the shards that are finished" and signs(job) > 0
    assert f"stopped on request: {failure['message']}" in job.log.read_text()


def test_a_stage_that_keeps_nothing_says_that_it_begins_again(tmp_path: Path) -> None:
    for stage, declared in GRAPH.items():
        words = goes_on(stage)
        assert (words == "begins again") == (declared.keeps is None)
        with pytest.raises(Stopped, match=f"it {words}"):
            _Progress(job_in(tmp_path / stage, stage, SPEC), lambda: True, words)(1, 2)
    assert advice("preempted", "score", "abc") == "by itself it begins again"
    assert advice("timeout", "train", "abc") == (
        "raise resources.train.minutes if that happens often; with `star-exp retry abc` and the same run it goes on from its last "
        "checkpoint"
    )
    assert tuple(
        attempts(kind, GRAPH[stage])
        for kind, stage in (("timeout", "probe"), ("timeout", "tokenizer"), ("preempted", "probe"))
    ) == (
        0,
        20,
        None,
    )


def test_two_ranks_killed_at_random(made: Path, tmp_path: Path) -> None:
    """As one process would have trained, up to float32's order of addition, whichever of the processes died."""
    parallel = "fsdp"  # copies (ddp) are the easier case, and part of the next test
    resources = SPEC.resources.model_copy(update={"parallel": parallel, "validate_every": 40})
    job = job_of(made, tmp_path / "job", "train", processes=2, spec=SPEC.model_copy(update={"resources": resources}))
    assert killed_until_done(job, random.Random(parallel), kills=1, most=6) == 1
    alone = losses(JobDir(made / "train"))
    assert losses(job) == pytest.approx(alone, rel=2e-3)
    expected = state(JobDir(made / "train"))
    for key, value in state(job).items():
        torch.testing.assert_close(value, expected[key], atol=2e-2, rtol=0)
    best = torch.load(job.out / "best.pt", weights_only=True)
    assert {key: value.shape for key, value in best.items()} == {key: value.shape for key, value in expected.items()}
    assert json.loads(job.result.read_text())["provenance"]["processes"] == 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root may name a host")
def test_ranks_meet_on_a_host_whose_name_nobody_resolves(made: Path, tmp_path: Path) -> None:
    """A container, or a laptop between two networks: the ranks would wait for each other's name for many minutes."""
    job = job_of(made, tmp_path / "job", "train", processes=2)
    named = ["unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid && exec "$@"', "sh"]
    with job.log.open("wb") as log:
        worker = subprocess.Popen([*named, sys.executable, "-m", "star.worker", str(job.path)], stdout=log, stderr=log)
    try:
        until(lambda: signs(job) > 0 or worker.poll() is not None, timeout=120)
        assert worker.poll() is None, job.log.read_text()[-3000:]
    finally:
        for process in family(worker.pid):
            process.kill()
        worker.wait(timeout=60)


def test_another_number_of_ranks_goes_on_from_the_same_checkpoint(made: Path, tmp_path: Path) -> None:
    """Sharded over two ranks until SIGTERM, then alone, then two copies."""
    path, alone = tmp_path / "job", losses(JobDir(made / "train"))
    for processes, parallel in ((2, "fsdp"), (1, "ddp"), (2, "ddp")):
        spec = SPEC.model_copy(update={"resources": SPEC.resources.model_copy(update={"parallel": parallel})})
        job = job_of(made, path, "train", processes, spec)
        before = newest(job)
        worker = start_worker(job)
        until(lambda: newest(job) > before or worker.poll() is not None)  # noqa: B023
        worker.send_signal(signal.SIGUSR1 if processes == 2 else signal.SIGTERM)
        if worker.wait(timeout=200) == DONE:
            break
        assert worker.returncode == PREEMPTED, job.log.read_text()[-3000:]
        assert f"the state after step {newest(job)} is saved" == json.loads(job.failure.read_text())["message"]
    else:
        assert work(job) == DONE, job.log.read_text()[-3000:]
    assert losses(job) == pytest.approx(alone, rel=2e-3)


def test_memory_that_runs_out_on_one_rank_lets_all_start_again_with_smaller_passes(made: Path, tmp_path: Path) -> None:
    job = job_of(made, tmp_path / "job", "train", processes=2)
    script = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tests.numerics.memory_on_a_rank",
    ]
    with job.log.open("ab") as log:
        first = subprocess.run(
            [sys.executable, *script, str(job.path)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            timeout=200,
            start_new_session=True,
        )
    assert first.returncode != 0 and json.loads(job.failure.read_text())["class"] == STOPPED, job.log.read_text()[
        -3000:
    ]
    assert json.loads((job.checkpoints / "micro_batch.json").read_text()) == {"size": 2}
    assert work(job) == DONE, job.log.read_text()[-3000:]
    assert losses(job) == pytest.approx(losses(JobDir(made / "train")), rel=2e-3)


def newest(job: JobDir) -> int:
    return max((int(path.stem.removeprefix("step-")) for path in job.checkpoints.glob("step-*.pt")), default=0)


def test_encode_killed_at_random_has_the_same_codes(made: Path, tmp_path: Path) -> None:
    processes = 2
    job = job_of(made, tmp_path / "job", "encode", processes)
    killed_until_done(job, random.Random(processes), kills=2, most=2)
    for name in ("train/codes.npy", "train/labels.npy", "test/codes.npy", "test/labels.npy"):
        np.testing.assert_array_equal(np.load(job.out / name), np.load(made / "encode" / "out" / name))
    assert not job.checkpoints.exists()


def test_a_shard_that_was_damaged_between_attempts_is_encoded_again(made: Path, tmp_path: Path) -> None:
    name = "codes"
    job = job_of(made, tmp_path / "job", "encode")
    worker = start_worker(job)
    until(lambda: (job.checkpoints / "train" / "labels.shards" / "1").exists() or worker.poll() is not None)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    damaged = job.checkpoints / "train" / f"{name}.npy"
    content = bytearray(damaged.read_bytes())
    content[200] ^= 1
    damaged.write_bytes(content)
    assert work(job) == DONE, job.log.read_text()[-3000:]
    np.testing.assert_array_equal(
        np.load(job.out / "train" / "codes.npy"), np.load(made / "encode/out/train/codes.npy")
    )


def test_generate_killed_at_random_has_the_same_images(made: Path, tmp_path: Path) -> None:
    processes = 2
    job = job_of(made, tmp_path / "job", "generate", processes)
    killed_until_done(job, random.Random(processes), kills=2, most=2)
    np.testing.assert_array_equal(np.load(job.out / "images.npy"), np.load(made / "generate" / "out" / "images.npy"))


def test_a_checkpoint_with_one_flipped_bit_is_not_used(tmp_path: Path) -> None:
    """torch reads such a file without a word; the checksums inside it are looked at here."""
    kept = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        kept.save(step, {"weights": torch.full((1000,), float(step)), "n": [step]})
    kept.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002.pt", "step-000000003.pt"]
    path = tmp_path / "step-000000003.pt"
    content = bytearray(path.read_bytes())
    place = content.index(np.full(4, 3.0, dtype=np.float32).tobytes())
    content[place + 100] ^= 64
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], torch.full((1000,), 3.0))
    found = kept.newest()
    assert found is not None and found[0] == 2 and found[1]["n"] == [2]


def test_a_result_that_is_no_number_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has diverged must not reach a table, whichever stage it is; a perfect image's PSNR may be infinite."""
    check_result("tokenizer", {"mse": 0.0, "psnr": float("inf")})
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match=f"score: frechet_distance is {value}; no result is kept"):
            check_result("score", {"frechet_distance": value, "precision": 0.5})
    for value in (float("nan"), float("-inf")):
        with pytest.raises(DataError, match=f"tokenizer: psnr is {value}"):
            check_result("tokenizer", {"mse": 0.0, "psnr": value})


def test_a_stage_that_needs_no_gpu_runs_where_it_sees_none(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the scheduler starts it: `device: cuda` is for the stages that compute."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec = SPEC.model_copy(update={"resources": SPEC.resources.model_copy(update={"device": "cuda"})})
    assert work(job_in(tmp_path / "dataset", "dataset", spec)) == DONE
    training = job_in(tmp_path / "train", "train", spec, encode=made / "encode")
    assert work(training) == USER_ERROR
    assert "no usable GPU" in (read_json(training.failure) or {})["message"]


def test_threads_that_wait_sleep_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would spin, which takes a busy machine's cores from those that they wait for; who wants that says so."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert worker_environment("code", 1)["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in worker_environment("code", 1)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert worker_environment("code", 1)["GOMP_SPINCOUNT"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to keep memory")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """A page that is given back is asked for again, and zeroed: a page fault."""
    steps = """
import resource, numpy as np
{}
def step():
    [np.ones(2**22, np.uint8) for _ in range(10)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = []
    for first in ("", "from star.torch_setup import keep_freed_memory; keep_freed_memory()"):
        command = [sys.executable, "-c", steps.format(first)]
        faults.append(int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout))
    assert faults[1] < 1000 < faults[0] / 5, faults
