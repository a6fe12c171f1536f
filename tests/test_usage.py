"""What a job takes of its machine, as its worker samples it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from star import usage
from star.devices import GIB, Gpu
from star.metric_log import read_metrics
from star.rundir import JobDir
from star.usage import Usage
from tests.services import until


def samples(job: JobDir) -> list[dict[str, float]]:
    return [line["metrics"] for _, line in read_metrics(job.usage)]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobDir:
    monkeypatch.setattr(usage, "EVERY", 0.2)
    return JobDir(tmp_path)


def test_processors_and_memory_of_all_its_processes(job: JobDir) -> None:
    with Usage(job):
        child = subprocess.Popen(
            [sys.executable, "-c", "x = bytearray(200 * 2**20)\nprint(1, flush=True)\nwhile True: pass"],
            stdout=subprocess.PIPE,
        )
        assert child.stdout and child.stdout.readline()
        before = len(samples(job))
        until(lambda: len(samples(job)) >= before + 4, "four samples")
        child.kill()
        child.wait()
    found = samples(job)[-1]
    assert found["cpu_utilization_percentage"] > 20 and found["memory_megabytes"] > 200


def test_a_resumed_job_goes_on_counting(job: JobDir) -> None:
    for _ in range(2):
        before = len(samples(job))
        with Usage(job):
            until(lambda before=before: len(samples(job)) > before, "a sample")
    steps = [json.loads(line)["step"] for line in job.usage.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 2


def test_gpus_are_sampled_where_there_are_any(job: JobDir, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu("GPU-a", "H100", 80 * GIB, 60 * GIB, "1", 93), Gpu("GPU-b", "H100", 80 * GIB, 80 * GIB)]
    monkeypatch.setattr(usage, "visible_gpus", lambda: gpus)
    with Usage(job):
        until(lambda: bool(samples(job)), "a sample")
    found = samples(job)[0]
    assert found["gpu_0_memory_usage_megabytes"] == 20 * 1024 and found["gpu_0_utilization_percentage"] == 93
    assert found["gpu_1_memory_usage_megabytes"] == 0 and "gpu_1_utilization_percentage" not in found


def test_it_ends_with_the_worker(job: JobDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "EVERY", 30.0)
    began = time.monotonic()
    with Usage(job):
        pass
    assert time.monotonic() - began < 20 and not job.usage.exists()
