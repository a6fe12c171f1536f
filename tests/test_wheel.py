"""The built wheel, in an empty folder: no clone, no file of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.helpers import DATA, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows, as a release is; setuptools is here already."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("reports/", "tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # what pip and uv call; an environment that uv made has no pip
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, where Python finds them before any other copy."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def typed(site: Path, folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STAR_")}
    done = subprocess.run(
        [sys.executable, "-m", "star.cli", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr)
    return done.stdout


def test_all_files_of_the_packages_are_in_it(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, packages in (
        (ROOT, ("star", "star_objectives")),
        (ROOT / "dashboards", ("star_board", "star_services")),
    ):
        for package in packages:
            for path in (folder / package).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    assert path.relative_to(folder).as_posix() in inside
    examples = {path.relative_to(ROOT / "experiments").as_posix() for path in (ROOT / "experiments").rglob("*.yaml")}
    assert {name.removeprefix("star_examples/") for name in inside if name.startswith("star_examples/")} == examples
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_init_and_a_run(site: Path, tmp_path: Path) -> None:
    where = (
        "import star, star_board, star_objectives; print(star.__file__, star_board.__file__, star_objectives.__file__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    ).stdout
    assert found.count(str(site)) == 3, "not the clone's"
    count = len(list((ROOT / "experiments").rglob("*.yaml")))
    assert f"wrote {count} files to experiments; 0 were there" in typed(site, tmp_path, "init")
    (tmp_path / "experiments" / "table4.yaml").write_text("mine")
    (tmp_path / "experiments" / "table6.yaml").unlink()
    again = typed(site, tmp_path, "init")
    assert "wrote 1 file " in again and "kept, though they differ" in again and "experiments/table4.yaml" in again
    assert (tmp_path / "experiments" / "table4.yaml").read_text() == "mine"
    profile = tmp_path / "experiments" / "profiles" / "tiny.yaml"
    tiny = yaml.safe_load((ROOT / "tests" / "profiles" / "tiny.yaml").read_text())
    profile.write_text(yaml.safe_dump(tiny | {"presets": {"B": {}, "50ep": {}}}))
    (tmp_path / "runs" / "data").mkdir(parents=True)
    (tmp_path / "runs" / "data" / "fashion-mnist").symlink_to(DATA)
    assert "to do: " in typed(site, tmp_path, "plan", "experiments/objectives.yaml", "--seeds", "0")
    small = ("experiments/table3.yaml", "--profile", "tiny", "--seeds", "0", "--rows", "baseline", "--plain")
    assert "all done: 9 jobs computed" in typed(site, tmp_path, "run", *small)
    assert (tmp_path / "runs" / "reports" / "table3" / "tiny" / "report.md").exists()
