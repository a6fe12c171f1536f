"""Bundles while disks are full, processes are killed, and jobs are at work."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from star.errors import DataError
from star.rundir import REMOVED, Home, JobDir
from star.scheduler import bundle, job_actions, unpack
from star.scheduler.own import left_of, put_back, write
from tests.helpers import star_exp
from tests.scheduler.lab import MANY, Lab


@pytest.fixture
def packed(lab: Lab, tmp_path: Path) -> Path:
    path = tmp_path / "many.tar.gz"
    done = star_exp("export", MANY, "--to", path, home=lab.path)
    assert done.returncode == 0, done.stderr
    return path


def interrupted(extract: Callable[..., None], name: str, error: BaseException) -> Callable[..., None]:
    """`_extract`, which fails once in the middle of a member whose name ends so."""
    left = [error]

    def failing(archive: Any, member: str, target: Path, durable: bool = False) -> None:
        if member.endswith(name) and left:
            raise left.pop()
        extract(archive, member, target, durable)

    return failing


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != REMOVED]


@pytest.mark.parametrize("member", ["experiments/many@tiny.json", "/result.json", "/environment.txt"])
def test_a_full_disk_is_no_damaged_bundle_and_leaves_nothing_behind(
    packed: Path, member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Home(tmp_path / "there")
    full = OSError(errno.ENOSPC, "No space left on device", str(there.path))
    monkeypatch.setattr(unpack, "_extract", interrupted(unpack._extract, member, full))
    with pytest.raises(OSError, match="No space left"):
        unpack.unpack(packed, there, there.path / "reports")
    assert hidden(there.path) == []
    taken = unpack.unpack(packed, there, there.path / "reports")
    assert taken.new + taken.there == 20 and not taken.kept
    assert len(json.loads((there.experiments / "many@tiny.json").read_text())["rows"]) > 1
    assert all(JobDir(path).read_result() for path in there.jobs.iterdir())


def test_a_record_is_never_there_in_part(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Home(tmp_path / "there")
    monkeypatch.setattr(unpack.os, "fsync", lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        unpack.unpack(packed, there, there.path / "reports")
    assert [path for path in there.experiments.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    record = there.experiments / "many@tiny.json"
    record.write_text('{"half')  # as an older version may have left it
    unpack.unpack(packed, there, there.path / "reports")
    assert len(json.loads(record.read_text())["rows"]) > 1


def test_a_log_may_grow_while_it_is_exported(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle holds what its checksums say, or it is not written."""
    job = lab.folder(lab.plan(), "train")
    add = bundle._add

    def append(archive: Any, name: str, content: bytes) -> None:
        with job.log.open("a") as log:
            log.write("one more line\n")
        add(archive, name, content)

    monkeypatch.setattr(bundle, "_add", append)
    target = tmp_path / "many.tar.gz"
    bundle.pack(lab.plan(), lab.home, lab.path / "reports", "none", target)
    there = Home(tmp_path / "there")
    assert unpack.unpack(target, there, there.path / "reports").new == 20

    def change(archive: Any, name: str, content: bytes) -> None:
        with job.metrics.open("a") as log:
            log.write("{}\n")
        add(archive, name, content)

    monkeypatch.setattr(bundle, "_add", change)
    target.unlink()
    with pytest.raises(DataError, match="metrics.jsonl: was written to while it was read; give the same command again"):
        bundle.pack(lab.plan(), lab.home, lab.path / "reports", "none", target)
    assert not target.exists()


def own(folder: JobDir) -> list[float]:
    lines = folder.own.read_text().splitlines() if folder.own.exists() else []
    return [json.loads(line)["metrics"]["my/score"] for line in lines]


def test_logged_numbers_outlive_a_killed_rerun(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lab.folder(lab.plan(), "train")
    write(folder, None, [(0.0, 0, "my/score", 0.5)])
    [job] = [one for one in lab.ledger.jobs.of().values() if folder.path.name.endswith(one.key)]

    def killed(left: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(job_actions, "put_back_one", killed)
        with pytest.raises(KeyboardInterrupt):
            job_actions.rerun(lab.home, lab.ledger, [job])
    assert not folder.path.exists() and left_of(folder.path).exists()
    assert job_actions.rerun(lab.home, lab.ledger, [job])
    assert own(folder) == [0.5] and not left_of(folder.path).exists()


def test_logged_numbers_outlive_a_killed_import(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: Lab
) -> None:
    there = Home(tmp_path / "there")
    folder = JobDir(there.jobs / lab.folder(lab.plan(), "train").path.name)
    folder.path.mkdir(parents=True)
    write(folder, None, [(0.0, 0, "my/score", 0.5)])
    placed = unpack._place

    def place(archive: Any, names: list[str], inside: str, *rest: Any) -> None:
        if inside.endswith(folder.path.name):
            raise KeyboardInterrupt
        placed(archive, names, inside, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(unpack, "put_back_one", lambda left: None)  # killed: not even `finally` runs
        patched.setattr(unpack, "_place", place)
        with pytest.raises(KeyboardInterrupt):
            unpack.unpack(packed, there, there.path / "reports")
    assert own(JobDir(left_of(folder.path))) == [0.5]
    unpack.unpack(packed, there, there.path / "reports")
    assert own(folder) == [0.5] and folder.read_result() is not None


def test_what_was_put_back_meanwhile_is_merged(lab: Lab) -> None:
    folder = lab.folder(lab.plan(), "train")
    left = JobDir(left_of(folder.path))
    left.path.mkdir()
    write(folder, None, [(0.0, 0, "my/score", 0.5)])
    write(left, None, [(0.0, 0, "my/score", 0.5), (1.0, 0, "my/score", 0.7)])
    put_back(lab.home)
    assert own(folder) == [0.5, 0.7] and not left.path.exists()
