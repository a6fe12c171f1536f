"""What an executor promises: a handle finds its process, also from another scheduler, and never somebody else's."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from star.rundir import JobDir
from star.scheduler.executor import Executor, Exit
from star.scheduler.local import LocalExecutor
from star.spec.run import RunSpec
from tests import helpers
from tests.helpers import tiny


@pytest.fixture(params=[LocalExecutor])
def make(request: pytest.FixtureRequest) -> type[Executor]:
    found: type[Executor] = request.param
    return found


def job_in(folder: Path, spec: RunSpec | None = None) -> JobDir:
    """A `dataset` job, ready to be started."""
    return helpers.job_in(folder, "dataset", spec or tiny())


def wait(executor: Executor, job: JobDir, handle: object) -> Exit:
    deadline = time.time() + 60
    while time.time() < deadline:
        ended = executor.poll(job, handle)  # type: ignore[arg-type]
        if ended is not None:
            return ended
        time.sleep(0.05)
    raise AssertionError(f"still running: {job.log.read_text()}")


def test_a_job_runs_and_ends(images: Path, make: type[Executor], tmp_path: Path) -> None:
    executor, job = make(), job_in(tmp_path / "job")
    handle = executor.submit(job)
    assert executor.poll(job, handle) is None
    json.dumps(handle)  # it is kept in the ledger
    assert wait(executor, job, handle) == Exit(0)
    assert json.loads(job.result.read_text())["provenance"]["code"] == "test"
    assert "done in" in job.log.read_text()


def test_another_scheduler_finds_it_again(images: Path, make: type[Executor], tmp_path: Path) -> None:
    job = job_in(tmp_path / "job")
    handle = json.loads(json.dumps(make().submit(job)))
    second = make()
    assert second.poll(job, handle) is None
    assert wait(second, job, handle) == Exit(None)
    assert job.result.exists()


def test_a_worker_without_handle_is_known_by_its_lock(images: Path, make: type[Executor], tmp_path: Path) -> None:
    job = job_in(tmp_path / "job")
    first = make()
    handle = first.submit(job)
    while not job.lock.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    assert make().poll(job, None) is None
    wait(first, job, handle)
    assert make().poll(job, None) == Exit(None)


def test_two_workers_on_one_job_do_it_once(images: Path, make: type[Executor], tmp_path: Path) -> None:
    executor, job = make(), job_in(tmp_path / "job")
    handles = [executor.submit(job) for _ in range(2)]
    codes = sorted(wait(executor, job, handle).code or 0 for handle in handles)
    assert codes in ([0, 3], [0, 0])  # busy, or started after the first had ended
    assert job.log.read_text().count("done in") == 1


def test_stop_and_kill(images: Path, make: type[Executor], tmp_path: Path) -> None:
    executor, job = make(), job_in(tmp_path / "job")
    handle = executor.submit(job)
    executor.stop(job, handle, kill=True)
    assert wait(executor, job, handle) == Exit(-9)
    assert not job.result.exists()
    executor.stop(job, handle)  # it is gone: nothing happens
    executor.stop(job, {**handle, "pid": 1}, kill=True)  # the number belongs to somebody else: nothing happens


def test_the_users_mistake_is_told_apart(images: Path, make: type[Executor], tmp_path: Path) -> None:
    executor, job = (
        make(),
        job_in(tmp_path / "job", tiny(data__name="image-folder", data__path=str(tmp_path / "nowhere"))),
    )
    assert wait(executor, job, executor.submit(job)) == Exit(2)
    failure = json.loads(job.failure.read_text())
    assert failure["class"] == "DataError" and "nowhere is no folder" in failure["message"]
    assert "Traceback" not in job.log.read_text()
