"""What Slurm is asked for where it takes fewer jobs at once than there are, and which of an array's jobs is meant."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from star.errors import ExecutorError
from star.rundir import JobDir
from star.scheduler import squeue
from star.scheduler.slurm import SlurmExecutor
from star.scheduler.slurm_script import Part
from star.scheduler.slurm_task import _number

LIMIT = "Slurm refused it: sbatch: error: Batch job submission failed: Invalid job array specification"


class Small:
    """A cluster that takes `widest` jobs in an array and `room` in all."""

    def __init__(self, widest: int, room: int = 1000, says: str = LIMIT) -> None:
        self.widest, self.room, self.says = widest, room, says
        self.asked: list[int] = []

    def submit(self, part: Any) -> list[Any]:
        count = len(part.starts)
        self.asked.append(count)
        if count > self.widest or count > self.room:
            return [ExecutorError(self.says)] * count
        self.room -= count
        return [{"job": start.name} for start in part.starts]


def submitted(cluster: Small, count: int, dependency: str | None = None) -> list[Any]:
    executor = object.__new__(SlurmExecutor)
    executor._submit = cluster.submit  # type: ignore[method-assign]
    starts: Any = tuple(SimpleNamespace(name=str(i)) for i in range(count))
    return executor._in_parts(Part(starts, dependency))


def test_an_array_that_is_too_long_goes_in_parts() -> None:
    found = submitted(Small(3), 10)
    assert [one["job"] for one in found] == [str(i) for i in range(10)]


def test_what_is_full_is_asked_no_more() -> None:
    cluster = Small(
        500, room=70, says="violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    )
    found = submitted(cluster, 400)
    assert [one["job"] for one in found[:70]] == [str(i) for i in range(70)]
    assert all(isinstance(one, ExecutorError) for one in found[70:]) and len(found) == 400
    assert len(cluster.asked) < 40


@pytest.mark.parametrize(
    ("says", "dependency"), [("Slurm refused it: invalid partition", None), (LIMIT, "aftercorr:7")]
)
def test_other_refusals_stay_as_they_are(says: str, dependency: str | None) -> None:
    """Fewer jobs would not help; and the jobs of an array may each wait for one of another."""
    cluster = Small(3, says=says)
    assert all(isinstance(one, ExecutorError) for one in submitted(cluster, 10, dependency)) and cluster.asked == [10]


def test_the_last_of_an_array_does_not_speak_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert _number() == "7"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert _number() == "7_2"


def test_who_looks_does_not_wait_for_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 100\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    given: list[float] = []
    plain = squeue.subprocess.run
    monkeypatch.setattr(
        squeue.subprocess, "run", lambda *a, timeout, **k: (given.append(timeout), plain(*a, timeout=0.2, **k))
    )
    assert squeue.in_queue() == {} and given[0] <= 2.0


def test_a_worker_that_slurm_does_not_show_runs_as_long_as_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PrivateData=jobs nobody sees the jobs of others, and a colleague's are adopted too."""
    asked: list[float] = []
    monkeypatch.setattr("star.scheduler.slurm.by_number", lambda numbers: asked.append(0.0) or {})
    monkeypatch.setattr("star.scheduler.slurm.accounted", lambda numbers: {})
    executor = object.__new__(SlurmExecutor)
    executor.every, executor._looked, executor._seen, executor._missed = 0.0, float("-inf"), {}, {}
    folder = JobDir(tmp_path)
    folder.beat.touch()
    watched: Any = [SimpleNamespace(name="train-1", handle={"job": 7}, job=folder)]
    assert [executor.poll(watched) for _ in range(4)] == [[None]] * 4 and len(asked) == 4
    executor.every = 1000.0
    assert executor.poll(watched) == [None] and len(asked) == 4, "Slurm is not asked at every look"
    os.utime(folder.beat, (0, 0))
    assert [one.state for one in executor.poll(watched) if one] == ["Slurm does not know it any more"]
