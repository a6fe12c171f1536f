"""Workers that are forked are what `python -m` would have started, and need their server for nothing once they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from star.pipeline.config import ResourceSpec
from star.rundir import PREEMPTED, JobDir, write_json
from star.scheduler.executor import Exit, Start, Watched
from star.scheduler.local import LocalExecutor
from tests.helpers import ROOT, living_workers
from tests.services import until

LIGHT = "tests.light.worker"
AT_IMPORT = """
import os, tempfile
threads, process, temporary = os.environ.get("OMP_NUM_THREADS"), os.getpid(), tempfile.gettempdir()
"""
REPORTER = """
import json, os, signal, sys, tempfile
from pathlib import Path
import at_import
PRELOAD = ("json.tool",)
if __name__ == "__main__":
    found = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    told = {
        "environment": dict(os.environ), "arguments": sys.argv[1:], "cwd": os.getcwd(),
        "session": os.getsid(0), "pid": os.getpid(),
        "files": {name.rpartition("/")[2]: os.readlink(name) for name in found if os.path.exists(name)},
        "threads_at_import": at_import.threads, "imported_by": at_import.process,
        "preloaded": "json.tool" in sys.modules, "temporary": tempfile.gettempdir(),
        "signals": [signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler) for number in (2, 10, 15)],
    }
    Path(sys.argv[1], "told.json").write_text(json.dumps(told))
    print("said", flush=True)
    print("complained", file=sys.stderr)
    sys.exit(7)
"""


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a worker that tells what it finds."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "tell_all.py").write_text(REPORTER)
    (folder / "at_import.py").write_text(AT_IMPORT)
    return folder


def start_of(folder: Path, code: Path = ROOT, threads: int = 1, **light: object) -> Start:
    job = JobDir(folder)
    job.path.mkdir(parents=True)
    content = {"stage": "train", "key": folder.name, "attempt": 1, "spec": {}, "inputs": {}, "code": "test"}
    write_json(job.job, {**content, "threads": threads, "light": light})
    claim = LocalExecutor(4).place("train", ResourceSpec(), (0, {}))
    assert claim is not None
    return Start(job, "train", f"star-train-{folder.name}-1", code, ResourceSpec(), claim)


def end_of(executor: LocalExecutor, start: Start, handle: Any) -> Exit:
    found: list[Exit | None] = [None]

    def over() -> bool:
        executor.wait(0.1)
        found[0] = executor.poll([Watched(start.job, start.name, handle, start.claim.host)])[0]
        return found[0] is not None

    until(over, f"{start.name} ends")
    assert found[0] is not None
    return found[0]


def servers(module: str) -> list[psutil.Process]:
    """Of this process, for workers of one module."""
    return [child for child in psutil.Process().children() if ["star.fork_server", module] == child.cmdline()[2:4]]


def told(executor: LocalExecutor, start: Start) -> dict[str, Any]:
    (handle,) = executor.submit([start])
    assert end_of(executor, start, handle) == Exit(7)
    found: dict[str, Any] = json.loads((start.job.path / "told.json").read_text())
    assert found["pid"] == handle["pid"]  # type: ignore[index]
    return found


def test_each_worker_is_a_process_of_its_own(tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = LocalExecutor(4, worker="tell_all")
    monkeypatch.setenv("FIRST", "1")
    monkeypatch.delenv("TMPDIR", raising=False)
    first = told(executor, one := start_of(tmp_path / "one", code))
    monkeypatch.delenv("FIRST")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    second = told(executor, start_of(tmp_path / "two", code))
    wide = told(executor, start_of(tmp_path / "wide", code, threads=3))
    for found, own in ((first, {"FIRST": "1"}), (second, {"TMPDIR": str(tmp_path)})):
        expected = {"GOMP_SPINCOUNT": "10000", **os.environ}
        expected |= {"PYTHONPATH": f"{code}{os.pathsep}{ROOT}", "STAR_ATTEMPT": "1"}
        expected = {name: value for name, value in expected.items() if name not in ("FIRST", "TMPDIR")} | own
        assert found["environment"] == {**expected, **cuda(found)}
        assert found["session"] == found["pid"] and found["cwd"] == str(code) and all(found["signals"])
        assert found["preloaded"]
        assert sorted(map(int, found["files"])) == [0, 1, 2] and found["files"]["0"] == "/dev/null", found["files"]
    assert first["arguments"] == [str(one.job.path)] and one.job.log.read_text() == "said\ncomplained\n"
    assert second["temporary"] == str(tmp_path) != first["temporary"]
    assert first["imported_by"] == second["imported_by"] not in (first["pid"], wide["imported_by"])
    assert [found["threads_at_import"] for found in (first, second, wide)] == ["1", "1", "3"]
    assert len(servers("tell_all")) == 2
    executor.close()
    assert servers("tell_all") == []


def cuda(found: dict[str, Any]) -> dict[str, str]:
    """What a machine with GPUs adds."""
    return {name: value for name, value in found["environment"].items() if name == "CUDA_VISIBLE_DEVICES"}


def test_a_worker_outlives_its_server_and_the_next_has_another(tmp_path: Path) -> None:
    executor = LocalExecutor(4, worker=LIGHT)
    start = start_of(tmp_path / "home" / "job", steps=20, seconds=0.05)
    (handle,) = executor.submit([start])
    (server,) = servers(LIGHT)
    server.send_signal(signal.SIGKILL)
    server.wait()
    (after,) = executor.submit([other := start_of(tmp_path / "home" / "other")])
    assert end_of(executor, other, after) == Exit(0) and "Warning" not in other.job.log.read_text()
    assert executor.poll([Watched(start.job, start.name, handle)]) == [None]
    assert end_of(executor, start, handle) == Exit(None) and start.job.is_complete()
    executor.close()


@pytest.mark.parametrize(("kill", "code"), [(False, PREEMPTED), (True, -signal.SIGKILL)])
def test_a_worker_is_stopped_from_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: bool, code: int
) -> None:
    executor, far = LocalExecutor(4, worker=LIGHT), LocalExecutor(4, worker=LIGHT)
    far.host = "far"
    start = start_of(tmp_path / "home" / "job", steps=10_000, seconds=0.05)
    write_json(start.job.stop, {"attempt": 0, "kill": True})  # left from an earlier attempt
    (handle,) = executor.submit([start])
    until(start.job.beat.exists, "it lives")
    assert executor.poll([Watched(start.job, start.name, handle)]) == [None]
    far.stop(Watched(start.job, start.name, handle), kill)
    assert end_of(executor, start, handle) == Exit(code)
    executor.close()
    (seen,) = far.poll([Watched(start.job, start.name, handle)])
    assert seen is None, "just now it beat"
    os.utime(start.job.job, (0, 0))
    os.utime(start.job.beat, (time.time() - 30,) * 2)
    (seen,) = far.poll([Watched(start.job, start.name, handle)])
    assert seen == (None if kill else Exit(None)), "of a killed one nothing is told"
    os.utime(start.job.beat, (0, 0))
    (seen,) = far.poll([Watched(start.job, start.name, handle)])
    assert seen == Exit(None, "its machine is silent" if kill else None)


def test_a_killed_scheduler_leaves_its_workers_and_no_server(tmp_path: Path) -> None:
    """Also in a folder whose name has spaces, under which the next scheduler finds them."""
    start = start_of(tmp_path / "a home" / "the job", steps=30, seconds=0.05)
    script = f"""
import time
from pathlib import Path
from tests.scheduler.test_fork_server import *
claim = LocalExecutor(4).place("train", ResourceSpec(), (0, {{}}))
start = Start(JobDir(Path({str(start.job.path)!r})), "train", "x", ROOT, ResourceSpec(), claim)
executor = LocalExecutor(4, worker=LIGHT)  # without one that holds it, its server would end
executor.submit([start])
print(servers(LIGHT)[0].pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as scheduler:
        assert scheduler.stdout is not None
        server = psutil.Process(int(scheduler.stdout.readline()))
        scheduler.kill()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server ends")
    assert len(living_workers(tmp_path / "a home", LIGHT)) == 1
    executor = LocalExecutor(4, worker=LIGHT)
    assert executor.poll([Watched(start.job, start.name, None)]) == [None]
    assert executor._find(Watched(start.job, start.name, None)) is not None
    assert end_of(executor, start, None) == Exit(None) and start.job.is_complete()


def test_what_cannot_be_imported_is_told_in_the_jobs_log(tmp_path: Path, code: Path) -> None:
    (code / "broken.py").write_text("import not_there_at_all\n")
    executor, start = LocalExecutor(4, worker="broken"), start_of(tmp_path / "job", code)
    (handle,) = executor.submit([start])
    assert end_of(executor, start, handle) == Exit(1)
    assert "No module named 'not_there_at_all'" in start.job.log.read_text()


def test_a_server_that_cannot_start_is_an_engine_that_refuses(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    executor, start = LocalExecutor(4, worker=LIGHT), start_of(tmp_path / "job", code)
    (refused,) = executor.submit([start])
    assert f"the process that forks workers ended with 1; {start.job.log} may say why" in str(refused)
