"""Cores that a process may use are fewer than the machine has where its affinity or its container says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from star.devices import _quotas, usable_cores
from star.scheduler.local import LocalExecutor
from star.scheduler.start import divided
from tests.helpers import tiny


def test_affinity_counts() -> None:
    code = """
import os
from star.devices import usable_cores
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(usable_cores())
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"
    assert 1 <= LocalExecutor().slots == usable_cores() <= len(os.sched_getaffinity(0))


def test_fewer_threads_than_asked_for_are_said() -> None:
    """Sums in another order round otherwise, and the key knows nothing of threads."""
    spec = tiny(resources__tokenizer={"threads": 2})
    jobs: Any = [SimpleNamespace(stage=stage, spec=spec) for stage in ("tokenizer", "train")]
    [line] = divided(jobs, LocalExecutor(slots=1))
    assert "tokenizer asks for 2 threads and gets 1: its numbers" in line
    assert divided(jobs, LocalExecutor(slots=2)) == []


@pytest.mark.parametrize(
    "limits, cores",
    [
        ({}, []),
        ({"": "max 100000"}, []),
        ({"": "150000 100000"}, [2]),
        ({"a/b": "400000 100000", "a": "50000 100000", "": "max 100000"}, [4, 1]),
    ],
)
def test_quotas_of_containers_count(tmp_path: Path, limits: dict[str, str], cores: list[int]) -> None:
    (tmp_path / "own").write_text("1:cpu:/other\n0::/a/b\n")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    for group, text in limits.items():
        (tmp_path / "root" / group / "cpu.max").write_text(text + "\n")
    assert list(_quotas(tmp_path / "own", tmp_path / "root")) == cores
    assert list(_quotas(tmp_path / "nowhere", tmp_path / "root")) == []
