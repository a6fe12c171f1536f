"""Fingerprints of given files: computed once, and anew after any change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from star.rundir import Home
from star.scheduler import fingerprints
from star.scheduler.fingerprints import Fingerprints


@pytest.fixture
def given(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / "images" / name).write_text(name)
    return tmp_path / "images"


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written have stood for a while."""
    now = fingerprints.time.time
    monkeypatch.setattr(fingerprints.time, "time", lambda: now() + 10)


def counted(path: Path) -> tuple[Callable[[], str], list[str]]:
    calls: list[str] = []

    def compute() -> str:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        calls.append("".join(file.read_text() for file in files))
        return calls[-1]

    return compute, calls


def replaced(path: Path) -> None:
    """Another content of the same size, with the old date of modification."""
    stat = path.stat()
    path.write_text("z")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("place", ["", "a"], ids=["folder", "file"])
def test_computed_once_and_anew_after_a_change(place: str, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    home, path = Home(given.parent / "home"), given / place
    compute, calls = counted(path)
    first = Fingerprints(home).of(path, compute)
    assert Fingerprints(home).of(path, compute) == first and len(calls) == 1, "another process remembers it"
    replaced(given / "a")
    second = Fingerprints(home).of(path, compute)
    assert second != first and len(calls) == 2


def test_a_file_more_in_a_folder_is_a_change(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    home, (compute, calls) = Home(given.parent / "home"), counted(given)
    first = Fingerprints(home).of(given, compute)
    shutil.copy(given / "a", given / "c")
    assert Fingerprints(home).of(given, compute) != first and len(calls) == 2


def test_what_was_just_written_is_not_remembered(given: Path) -> None:
    """A second change within the clock's resolution would not be seen."""
    home, (compute, calls) = Home(given.parent / "home"), counted(given)
    for _ in range(2):
        Fingerprints(home).of(given, compute)
    assert len(calls) == 2


def test_without_a_home_nothing_is_written(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    home, (compute, calls) = Home(tmp_path / "none"), counted(given)
    assert Fingerprints(home).of(given, compute) == calls[0]
    assert not home.path.exists()
