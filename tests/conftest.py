"""Shared fixtures: real images, a tiny spec that trains in seconds, and homes that already hold the shared stages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from star.data.fetch import fashion_mnist, is_complete
from tests.helpers import DATA, ROOT, star_exp

torch.set_num_threads(1)  # two test processes on two cores: more threads would only wait for each other
settings.register_profile("star", derandomize=True)
settings.load_profile("star")


@pytest.fixture(scope="session")
def images() -> Path:
    """The folder of Fashion-MNIST's files; `make test` has fetched them."""
    if not is_complete(DATA):
        fashion_mnist(DATA)
    return DATA


@pytest.fixture(scope="session")
def prepared(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that holds the images and the stages up to `encode` and `reference` of tests/tiny.yaml."""
    home = tmp_path_factory.mktemp("prepared")
    (home / "data").mkdir()
    (home / "data" / "fashion-mnist").symlink_to(images)
    done = star_exp("run", ROOT / "tests" / "tiny_shared.yaml", "--plain", home=home, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    """A home of one's own, with the shared stages in it."""
    shutil.copytree(prepared / "jobs", tmp_path / "home" / "jobs")
    (tmp_path / "home" / "data").mkdir()
    (tmp_path / "home" / "data" / "fashion-mnist").symlink_to(DATA)
    return tmp_path / "home"
