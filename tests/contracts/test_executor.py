"""What an executor promises, here, on a real Slurm and on a real Ray: a handle finds its process, also from another
scheduler, and never somebody else's; an end is told apart from another.

`STAR_TEST_EXECUTOR=my.py:Mine pytest tests/contracts/test_executor.py -k yours` holds an executor of one's own to it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from star.pipeline.config import ResourceSpec
from star.rundir import Home, JobDir, read_json, write_json
from star.scheduler.executor import Executor, Exit, Start, Watched
from star.scheduler.executors import make_executor
from star.scheduler.local import LocalExecutor
from tests.helpers import ROOT
from tests.services import until

WORKER = "tests.light.worker"
Make = Callable[[], Executor]
YOURS = os.environ.get("STAR_TEST_EXECUTOR", "")


@pytest.fixture(params=["local", "slurm", "ray", "own", *(["yours"] if YOURS else [])])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes executors of one kind, as one scheduler after the other would."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if request.param == "local":
        return lambda: LocalExecutor(4, worker=WORKER)
    if request.param == "own":
        page = (ROOT / "docs" / "own-executor.md").read_text()
        (text,) = re.findall(r"```python\n# executors/detached.py\n(.*?)```", page, re.DOTALL)
        return _of_file(text, "Detached", tmp_path)
    if request.param == "yours":
        path, _, name = YOURS.rpartition(":")
        return _of_file(Path(path).read_text(), name, tmp_path)
    if request.param == "slurm":
        request.getfixturevalue("slurm")
        from star.scheduler.slurm import SlurmExecutor

        return lambda: SlurmExecutor(Home(tmp_path), worker=WORKER, every=0.2)
    request.getfixturevalue("ray_cluster")
    from star.scheduler.ray import RayExecutor

    return lambda: RayExecutor(Home(tmp_path), worker=WORKER)


def _of_file(text: str, name: str, folder: Path) -> Make:
    assert '"star.worker"' in text, "the file names the module that it starts"
    (folder / "executor.py").write_text(text.replace('"star.worker"', f'"{WORKER}"'))
    return lambda: make_executor(f"{folder}/executor.py:{name}", Home(folder))


def start_of(make: Make, folder: Path, **light: object) -> Start:
    """An attempt whose worker does as `light` says."""
    job = JobDir(folder)
    job.path.mkdir()
    content = {"stage": "train", "key": folder.name, "attempt": 1, "spec": {}, "inputs": {}, "code": "test"}
    write_json(job.job, {**content, "light": light})
    executor, resources = make(), ResourceSpec()
    claim = executor.place("train", resources, (0, {}))
    assert claim is not None
    return Start(job, "train", f"star-train-{folder.name}-{os.getpid()}-{time.time_ns()}-1", ROOT, resources, claim)


def watched(start: Start, handle: dict[str, Any] | None) -> Watched:
    return Watched(start.job, start.name, handle, start.claim.host)


def end_of(executor: Executor, start: Start, handle: dict[str, Any] | None) -> Exit:
    found: list[Exit | None] = [None]

    def over() -> bool:
        executor.wait(0.1)
        found[0] = executor.poll([watched(start, handle)])[0]
        return found[0] is not None

    until(over, f"{start.name} ends")
    assert found[0] is not None
    return found[0]


def has_begun(start: Start) -> bool:
    return start.job.metrics.exists()


def test_a_job_runs_and_ends(make: Make, tmp_path: Path) -> None:
    executor = make()
    starts = [start_of(make, tmp_path / name) for name in ("a", "b", "c")]
    handles = executor.submit(starts)
    json.dumps(handles)  # they are kept in the ledger
    for start, handle in zip(starts, handles, strict=True):
        assert end_of(executor, start, handle) == Exit(0)
        result = read_json(start.job.result)
        assert result["provenance"]["code"] == "test" and result["attempt"] == 1
        assert (start.job.path / "done.txt").read_text() == "1\n"


def test_another_scheduler_finds_it_again(make: Make, tmp_path: Path) -> None:
    first, start = make(), start_of(make, tmp_path / "job", steps=15, seconds=0.1)
    handle = json.loads(json.dumps(first.submit([start])[0]))
    until(lambda: has_begun(start), "the worker begins")
    second = make()
    assert second.poll([watched(start, handle)]) == [None]
    assert end_of(second, start, handle).code in (0, None)
    assert start.job.result.exists()


def test_one_whose_handle_was_never_kept_is_found(make: Make, tmp_path: Path) -> None:
    first, start = make(), start_of(make, tmp_path / "job", steps=15, seconds=0.1)
    first.submit([start])
    second = make()
    # a process that has just begun shows an empty command line for a moment; schedulers give it GRACE seconds
    until(lambda: second.poll([watched(start, None)]) == [None], "the worker is found", 2)
    end_of(second, start, None)
    assert start.job.result.exists()
    never = start_of(make, tmp_path / "never")
    assert end_of(second, never, None).code is None


def test_one_that_is_asked_to_stop_saves_its_state(make: Make, tmp_path: Path) -> None:
    executor, start = make(), start_of(make, tmp_path / "job", steps=600, seconds=0.1)
    handle = executor.submit([start])[0]
    until(lambda: has_begun(start), "the worker begins")
    executor.stop(watched(start, handle))
    ended = end_of(executor, start, handle)
    assert ended.code == 75 or ended.state == "CANCELLED", ended
    assert read_json(start.job.failure)["class"] == "Stopped"
    assert 0 < read_json(start.job.checkpoints / "state.json")["done"] < 600
    executor.stop(watched(start, handle))  # it is gone: nothing happens


def test_one_that_is_killed_is_gone(make: Make, tmp_path: Path) -> None:
    executor, start = make(), start_of(make, tmp_path / "job", steps=600, seconds=0.1)
    handle = executor.submit([start])[0]
    until(lambda: has_begun(start), "the worker begins")
    executor.stop(watched(start, handle), kill=True)
    ended = end_of(executor, start, handle)
    assert ended.code not in (0, 75) and not start.job.result.exists()
    until(lambda: not start.job.locked(), "the worker is gone")


@pytest.mark.parametrize(("how", "code"), [("user", 2), ("bug", 70), ("9", 9)])
def test_ends_are_told_apart(make: Make, tmp_path: Path, how: str, code: int) -> None:
    executor, start = make(), start_of(make, tmp_path / "job", exit=how)
    assert end_of(executor, start, executor.submit([start])[0]) == Exit(code)
    told = read_json(start.job.failure)
    assert (told and told["class"]) == {"user": "DataError", "bug": "ValueError"}.get(how)
    assert ("Traceback" in start.job.log.read_text()) == (how == "bug")


def test_a_process_number_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    executor, start = LocalExecutor(4, worker=WORKER), start_of(lambda: LocalExecutor(4), tmp_path / "job")
    handle = executor.submit([start])[0]
    end_of(executor, start, handle)
    executor.stop(watched(start, {**handle, "pid": os.getppid()}), kill=True)


def test_two_workers_on_one_job_do_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    executor = LocalExecutor(4, worker=WORKER)
    start = start_of(lambda: executor, tmp_path / "job", steps=5, seconds=0.1)
    ends = [end_of(executor, start, handle) for handle in executor.submit([start, start])]
    assert sorted(end.code or 0 for end in ends) == [0, 3]  # busy
    assert (start.job.path / "done.txt").read_text() == "1\n"
