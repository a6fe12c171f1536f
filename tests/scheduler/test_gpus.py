"""GPUs of one machine, shared out by UUID and memory. The GPUs are pretended; claims, processes and their environment are real."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star.devices import GIB, Gpu, _chosen, choose
from star.ledger.states import Job
from star.scheduler.local import LocalExecutor
from star.scheduler.plan import Plan
from star.spec.resources import StageResources
from tests.helpers import ROOT
from tests.scheduler.lab import WORKER, Lab

UUIDS = ("GPU-aaaa-1", "GPU-bbbb-2", "GPU-bbcc-3")


def gpu(number: int, memory: int = 10, free: int | None = None) -> Gpu:
    return Gpu(UUIDS[number], "H100", memory * GIB, (memory if free is None else free) * GIB)


@given(
    st.lists(st.tuples(st.integers(1, 80), st.integers(0, 80)), max_size=3),
    st.lists(st.integers(0, 80), min_size=3, max_size=3),
    st.integers(1, 3),
    st.none() | st.integers(1, 80),
)
def test_no_gpu_is_ever_promised_beyond_its_memory(
    sizes: list[tuple[int, int]], held: list[int], count: int, memory: int | None
) -> None:
    gpus = [gpu(i, total, min(free, total)) for i, (total, free) in enumerate(sizes)]
    claimed = {one.uuid: min(held[i] * GIB, one.memory) for i, one in enumerate(gpus)}
    got = choose(gpus, claimed, count, None if memory is None else memory * GIB)
    if got is None:
        return
    assert len(got) == count
    for one in gpus:
        if one.uuid in got:
            assert claimed[one.uuid] + got[one.uuid] <= one.memory
            assert one.free >= (0.9 * one.memory if memory is None else memory * GIB)
            assert memory is not None or claimed[one.uuid] == 0


def test_the_fullest_gpu_that_fits_is_taken() -> None:
    gpus = [gpu(0), gpu(1), gpu(2)]
    assert choose(gpus, {UUIDS[1]: 4 * GIB}, 1, 5 * GIB) == {UUIDS[1]: 5 * GIB}
    assert choose(gpus, {UUIDS[1]: 4 * GIB}, 1, 7 * GIB) in ({UUIDS[0]: 7 * GIB}, {UUIDS[2]: 7 * GIB})
    assert choose(gpus, {UUIDS[1]: 1}, 2, None) == {UUIDS[0]: 10 * GIB, UUIDS[2]: 10 * GIB}
    assert choose(gpus, {UUIDS[1]: 1}, 3, None) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, [0, 1, 2]), ("2,0", [2, 0]), ("GPU-aaaa", [0]), ("GPU-bb", []), ("", []), ("1,-1,0", [1]), ("7", [])],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(names: str | None, expected: list[int]) -> None:
    gpus = [gpu(0), gpu(1), gpu(2)]
    assert _chosen(gpus, names) == [gpus[i] for i in expected]


@pytest.fixture
def lab(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LIGHT_STEPS", "4")
    monkeypatch.setenv("LIGHT_SECONDS", "0.05")
    return Lab(tmp_path / "home")


def visible(lab: Lab, plan: Plan, stage: str) -> list[str]:
    return [(lab.folder(plan, stage, row).path / "gpus.txt").read_text() for row in range(4)]


class Peaks:
    """The most jobs that ran at once on each GPU."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()

    def __call__(self, states: dict[str, Job]) -> None:
        now = Counter(uuid for job in states.values() for uuid in (job.gpus or {}))
        self.most |= now


def test_jobs_share_a_gpu_as_long_as_all_fit(lab: Lab) -> None:
    """Two GPUs of 10 GiB: three trainings of 4 GiB on them at once at most two on each; scores have one alone."""
    executor = LocalExecutor(8, gpus=lambda: [gpu(0), gpu(1)], worker=WORKER)
    plan, peaks = lab.plan(sets=("resources.gpu_memory_gb={train: 4, generate: 4}",)), Peaks()
    assert lab.run(plan, executor, tick=peaks).done == 20
    assert visible(lab, plan, "dataset")[0] == ""  # it needs none, and sees none
    assert set(visible(lab, plan, "train")) == {UUIDS[0], UUIDS[1]}
    assert peaks.most and max(peaks.most.values()) == 2
    assert lab.ledger.jobs.held("local", executor.host) == (0, {})


def test_a_job_of_several_processes_gets_several(lab: Lab) -> None:
    executor = LocalExecutor(8, gpus=lambda: [gpu(0), gpu(1), gpu(2)], worker=WORKER)
    plan = lab.plan(sets=("resources.gpu_memory_gb={probe: 1}",))
    resources = plan.runs[0].spec.resources.model_copy(update={"train": StageResources(processes=2)})
    claim = executor.place("train", resources, (0, {UUIDS[0]: GIB}))
    assert claim is not None and claim.gpus == {UUIDS[1]: 10 * GIB, UUIDS[2]: 10 * GIB} and claim.slots == 2
    assert executor.place("train", resources, (0, {UUIDS[0]: GIB, UUIDS[1]: GIB})) is None


def test_a_gpu_whose_memory_is_not_free_yet_is_waited_for(lab: Lab) -> None:
    """Somebody else's process still holds it for a second."""
    began = time.time()
    executor = LocalExecutor(2, gpus=lambda: [gpu(0, free=10 if time.time() - began > 1.5 else 3)], worker=WORKER)
    file = lab.file(("targets: [score, probe]", "targets: [tokenizer]"), ("probe/accuracy", "tokenizer/psnr"))
    plan = lab.plan(file)
    assert lab.run(plan, executor).done == 2
    started = {row.after: row.time for row in lab.ledger.jobs.history(plan.runs[0].stages["tokenizer"])}
    assert started["running"] - began > 1.5


@pytest.mark.parametrize(
    ("change", "stage", "says"),
    [
        ("resources.gpu_memory_gb={tokenizer: 11}", "tokenizer", "1 GPU of 11 GiB asked for, but this machine has 0"),
        ("resources.nodes={train: 2}", "train", "runs on Slurm or Ray"),
    ],
)
def test_a_job_that_fits_no_machine_fails_at_once(lab: Lab, change: str, stage: str, says: str) -> None:
    outcome = lab.run(lab.plan(sets=(change,)), LocalExecutor(2, gpus=lambda: [gpu(0)], worker=WORKER))
    assert {(job.stage, job.why) for job in outcome.failed} == {(stage, "user_error")}
    assert all(says in (job.error or "") for job in outcome.failed)


def test_cpu_threads_are_divided_on_a_small_machine(lab: Lab) -> None:
    plan = lab.plan(sets=("resources.threads={train: 8, tokenizer: 2}", "resources.device=cpu"))
    assert lab.run(plan, LocalExecutor(2, gpus=list, worker=WORKER)).done == 20
    import json

    assert json.loads(lab.folder(plan, "train").job.read_text())["threads"] == 2
    assert json.loads(lab.folder(plan, "dataset").job.read_text())["threads"] == 1
