"""Copies of what a job reads, on a disk of the machine's own."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from star.metric_log import read_metrics
from star.rundir import read_json
from star.scratch import _names, near
from tests.helpers import job_in, tiny, work


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "jobs" / "encode-abc" / "out"
    (out / "deep").mkdir(parents=True)
    (out / "codes.npy").write_bytes(b"x" * 5000)
    (out / "deep" / "labels.npy").write_bytes(b"y" * 100)
    return out


def test_a_copy_is_made_once_and_used_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    copy = near(folder, "$DISK/star")
    assert copy == tmp_path / "disk" / "star" / f"star-{os.getuid()}" / "-".join(_names(folder))
    assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == {
        Path("codes.npy"): b"x" * 5000,
        Path("deep/labels.npy"): b"y" * 100,
    }
    (copy / "mark").touch()
    assert near(folder, "$DISK/star") == copy and (copy / "mark").exists()


def test_several_at_once_share_one_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Path] = []
    copytree = shutil.copytree
    monkeypatch.setattr(shutil, "copytree", lambda *given: (copied.append(given[0]), copytree(*given))[1])
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(near(folder, str(tmp_path / "disk")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert copied.count(folder) == 1 and len(set(found)) == 1 and len(found) == 8


def test_half_a_copy_of_one_that_was_killed_is_made_anew(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk" / f"star-{os.getuid()}"
    half = place / f"{'-'.join(_names(folder))}.half"
    half.mkdir(parents=True)
    (half / "codes.npy").write_bytes(b"x" * 17)
    assert (near(folder, str(tmp_path / "disk")) / "codes.npy").stat().st_size == 5000
    assert not half.exists()


def test_what_was_computed_again_is_copied_again(folder: Path, tmp_path: Path) -> None:
    """A disk may outlive the job; and a second home's job of the same key is another."""
    (folder.parent / "result.json").write_text('{"finished": 1}')
    os.utime(folder, (0, 0))
    first = near(folder, str(tmp_path / "disk"))
    (folder / "codes.npy").write_bytes(b"z" * 4000)
    (folder.parent / "result.json").write_text('{"finished": 2}')
    assert time.time() - first.stat().st_mtime < 60, "not the original's"
    os.utime(first, (0, 0))
    again = near(folder, str(tmp_path / "disk"))
    assert again != first and (again / "codes.npy").read_bytes() == b"z" * 4000
    assert not first.exists()
    other = tmp_path / "other" / folder.parent.name / "out"
    shutil.copytree(folder.parent, other.parent)
    assert near(other, str(tmp_path / "disk")) != again and again.exists()


@pytest.mark.parametrize("scratch", ["$NO_SUCH_NAME/x", "relative/x", "/proc/none/x"])
def test_where_no_copy_can_be_it_is_said(folder: Path, scratch: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert near(folder, scratch) == folder
    assert "is read where it lies" in caplog.text


def test_a_full_disk_is_not_filled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=5200))
    with caplog.at_level(logging.WARNING):
        assert near(folder, str(tmp_path / "disk")) == folder
    assert "has room for 5200 bytes" in caplog.text and not list(tmp_path.glob("disk/*/encode-abc-*[!k]"))


def test_a_folder_of_somebody_else_is_not_used(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk" / f"star-{os.getuid()}"
    place.mkdir(parents=True)
    if os.getuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    os.chown(place, 12345, 12345)
    assert near(folder, str(tmp_path / "disk")) == folder


def test_a_worker_reads_the_copy(prepared: Path, tmp_path: Path) -> None:
    """The same numbers, from the machine's own disk."""
    encode = next(prepared.glob("jobs/encode-*"))
    results = []
    for name, scratch in (("there", None), ("near", str(tmp_path / "disk"))):
        spec = tiny(optim__steps=3, resources__scratch=scratch)
        job = job_in(tmp_path / name, "train", spec, encode=encode)
        assert work(job) == 0, job.log.read_text()
        steps = [(line["step"], line["metrics"]) for _, line in read_metrics(job.metrics)]
        results.append(((read_json(job.result) or {})["metrics"], steps))
    assert results[0] == results[1] and len(results[0][1]) == 2
    assert (tmp_path / "disk" / f"star-{os.getuid()}" / "-".join(_names(encode / "out")) / "train").exists()
    assert "was copied to" in (tmp_path / "near" / "log.txt").read_text()
