"""A home that is done, tracked and reported, for tests of what is done with one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command import run_module
from tests.helpers import ROOT
from tests.scheduler.lab import MANY, Lab


def light(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """star-exp with workers that only pretend to work."""
    return run_module("tests.light.cli", *map(str, arguments), "--home", str(home), environment=os.environ, cwd=home)


@pytest.fixture(scope="session")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which tests/many.yaml is done, tracked and reported."""
    os.environ["PYTHONPATH"] = str(ROOT)
    path = tmp_path_factory.mktemp("finished") / "home"
    lab = Lab(path)
    done = light("run", MANY, "--plain", "--out", path / "reports", home=lab.path)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def copy_of(home: Path, folder: Path) -> Lab:
    """A home like another, in `folder`."""
    lab = object.__new__(Lab)
    lab.path, lab.said = folder / "home", []
    shutil.copytree(home, lab.path, symlinks=True)
    return lab


@pytest.fixture
def lab(finished: Path, tmp_path: Path) -> Lab:
    """A copy of it."""
    return copy_of(finished, tmp_path)
