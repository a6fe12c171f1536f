"""Shared fixtures: real images, a tiny spec that trains in seconds, and homes that already hold the shared stages."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from star.data.fetch import fashion_mnist, is_complete
from tests.helpers import DATA, ROOT, star_exp
from tests.services import Postgres, RayCluster, Slurm, find_postgres

# a shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # two test processes on two cores: more threads would only wait for each other
settings.register_profile("star", derandomize=True, deadline=None)  # a slow machine is no failure
settings.load_profile("star")

LONGEST = """test_compose test_browser test_workers test_kill test_slurm test_job_actions test_together test_commands
test_evaluate test_weights test_measuring test_registration test_ranks test_tables test_ray test_registration_together
test_executor test_metrics_sync test_training test_chaos test_search test_door test_status test_large
test_odd_names""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no test process is left alone with one of them at the end."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def images() -> Path:
    """The folder of Fashion-MNIST's files; `make test` has fetched them."""
    if not is_complete(DATA):
        fashion_mnist(DATA)
    return DATA


@pytest.fixture(scope="session")
def prepared(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that holds the images and the stages up to `encode` and `reference` of tests/tiny.yaml: one for all test processes."""
    mine = tmp_path_factory.getbasetemp()
    home = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "prepared"
    with FileLock(f"{home}.lock"):
        if not (home / "whole").exists():
            (home / "data").mkdir(parents=True)
            (home / "data" / "fashion-mnist").symlink_to(images)
            done = star_exp("run", ROOT / "tests" / "tiny_shared.yaml", "--plain", home=home, cwd=home)
            assert done.returncode == 0, done.stdout + done.stderr
            (home / "whole").touch()
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    """A home of one's own, with the shared stages in it."""
    shutil.copytree(prepared / "jobs", tmp_path / "home" / "jobs")
    (tmp_path / "home" / "data").mkdir()
    (tmp_path / "home" / "data" / "fashion-mnist").symlink_to(DATA)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL server."""
    if not find_postgres("initdb"):
        pytest.skip("PostgreSQL is not installed; `make engines` installs it on Debian")
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database for a ledger, on each kind of server; also in STAR_LEDGER_URL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    else:
        url = request.getfixturevalue("postgres").new_database()
    monkeypatch.setenv("STAR_LEDGER_URL", url)
    return url


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A real Slurm of two nodes; its commands find it by SLURM_CONF."""
    if shutil.which("slurmctld") is None:
        pytest.skip("Slurm is not installed; `make engines` installs it on Debian")
    cluster = Slurm(tmp_path_factory.mktemp("slurm") / "cluster")
    os.environ["SLURM_CONF"] = str(cluster.conf)
    yield cluster
    cluster.stop()
    del os.environ["SLURM_CONF"]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A real Ray of two nodes; RAY_ADDRESS and its token are in the environment."""
    cluster = RayCluster()
    os.environ.update(cluster.environment)
    yield cluster
    import ray

    ray.shutdown()
    cluster.stop()
    for name in cluster.environment:
        del os.environ[name]
