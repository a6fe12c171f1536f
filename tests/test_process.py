"""A living process is never taken for another one, nor for dead."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from star.errors import ExecutorError
from star.launch import launch_torchrun
from star.process import is_alive, process_born
from star.rundir import FAILED, Home, JobDir
from star.scheduler.executors import make_executor
from star.scheduler.job_monitor import STOP_TIMEOUT


def test_a_process_is_known_as_long_as_it_lives() -> None:
    born = process_born(os.getpid())
    assert born is not None and is_alive(os.getpid(), born) is True
    assert is_alive(os.getpid(), "") is None, "it could not find out when it began"
    child = subprocess.Popen(["sleep", "60"])
    its = process_born(child.pid)
    assert its is not None and is_alive(child.pid, its) is True
    assert is_alive(child.pid, born.rsplit(" ", 1)[0] + " 1") is False  # the number is somebody else's by now
    child.kill()
    while process_born(child.pid):
        pass
    assert is_alive(child.pid, its) is False  # only its exit code is left
    child.wait()
    assert process_born(child.pid) is None and is_alive(child.pid, its) is False


def test_where_it_cannot_be_known() -> None:
    """After a boot nothing of before lives; of a container with numbers of its own nothing is known."""
    born = process_born(os.getpid())
    assert born is not None
    boot, namespace, ticks = born.split()
    assert is_alive(os.getpid(), f"another-boot {namespace} {ticks}") is False
    assert is_alive(os.getpid(), f"{boot} 1 {ticks}") is None
    assert is_alive(os.getpid(), "1795583268.5") is False  # as older versions wrote it


def test_a_name_with_spaces_and_parentheses(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to(sys.executable)
    child = subprocess.Popen([odd, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    its = process_born(child.pid)
    assert its is not None and its.split()[-1].isdigit() and int(its.split()[-1]) > 100
    child.communicate(b"\n")


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="wants root, and util-linux")
def test_the_numbers_of_a_container_are_its_own() -> None:
    """Its process 1 is not this machine's."""
    code = "import os; from star.process import process_born; print(process_born(os.getpid()))"
    line = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    found = subprocess.run(line, capture_output=True, text=True, timeout=200)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    assert is_alive(1, found.stdout.strip()) is None


def test_a_system_without_proc_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS, for one: neither the scheduler nor its jobs could say which process they are."""
    monkeypatch.setattr("star.process.process_born", lambda pid: None)
    with pytest.raises(ExecutorError, match=r"--executor local: .* run on Linux.* planning, reports"):
        make_executor("local", Home(tmp_path))


def test_torchrun_leaves_the_time_to_save_to_who_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it kills the ranks after 30 s, in which a large state is not on disk yet."""
    import torch.distributed.run
    from torch.distributed.launcher.api import LaunchConfig

    patience: list[int | None] = []
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(
        torch.distributed.run, "main", lambda arguments: patience.append(LaunchConfig(1, 1, 2).shutdown_timeout)
    )
    job = {"processes": 2, "key": "0" * 16, "spec": {"resources": {"slurm": {"signal_seconds": 300}}}}
    for name in ("", "SLURM_JOB_ID"):
        monkeypatch.setattr(os, "environ", {**os.environ, **({name: "7"} if name else {})})
        assert launch_torchrun(JobDir(tmp_path), job) == FAILED
        os.environ.pop("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    assert patience == [50, 290] and patience[0] < STOP_TIMEOUT  # or its ranks would outlive torchrun
