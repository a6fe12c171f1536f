"""What `gc` leaves while others work."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from star.ledger.states import NewJob
from star.scheduler.gc import find, remove
from star.scheduler.snapshot import take
from tests.scheduler.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "home")


def orphan(lab: Lab, key: str) -> Path:
    """A job's folder that no experiment needs."""
    lab.ledger.jobs.add([NewJob(key, "train", "of a row that was left out", 0)])
    folder = lab.home.jobs / f"train-{key}"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    return folder


def test_the_code_of_a_scheduler_that_waits_for_its_first_job_stays(lab: Lab) -> None:
    ledger, code = lab.ledger, take(lab.home).path
    os.utime(code, (0, 0))
    me = ledger.schedulers.enter("local")
    assert find(lab.home, ledger) == []
    ledger.schedulers.leave(me)
    assert [one.path for one in find(lab.home, ledger)] == [code]
    assert take(lab.home).path == code and find(lab.home, ledger) == [], "it was taken just now"


def test_a_job_that_begins_between_the_list_and_the_removal_stays(lab: Lab) -> None:
    begins, goes = orphan(lab, "0" * 16), orphan(lab, "1" * 16)
    found = find(lab.home, lab.ledger)
    assert {one.path for one in found} == {begins, goes}
    with (begins / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [one.path for one in remove(found, lab.ledger)] == [goes]
    assert begins.exists() and not goes.exists()


def test_what_a_killed_gc_left_is_found_by_the_next(lab: Lab) -> None:
    lab.home.code.mkdir(parents=True)
    for place, name in [(lab.home.jobs, f".gone.of_mine2-{'0' * 16}"), (lab.home.code, f".gone.{'c' * 16}")]:
        place.mkdir(exist_ok=True)
        (place / name).mkdir()
        assert find(lab.home, lab.ledger) == [], "another may be at it"
        os.utime(place / name, (0, 0))
        (left,) = find(lab.home, lab.ledger)
        assert left.path == place / name and remove([left], lab.ledger) == [left] and not left.path.exists()
