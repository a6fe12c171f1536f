"""What the project says of itself to package indexes, forges and citers is one thing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_citation_and_package_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert f"({PROJECT['version']})" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "LICENSE").read_text().startswith(f"{PROJECT['license']} License")


def test_what_is_shipped_of_others_has_its_licence() -> None:
    static = ROOT / "dashboards" / "star_board" / "static"
    foreign = [path for path in static.iterdir() if ".min." in path.name or path.name.startswith("idiomorph")]
    licences = " ".join(path.name for path in static.glob("LICENSE.*"))
    assert len(foreign) >= 4 and all(path.name.split(".")[0].split("-")[0].lower() in licences for path in foreign)


def test_the_image_holds_every_package() -> None:
    copied = (ROOT / "dashboards" / "compose" / "Dockerfile").read_text()
    packages = [path.parent.name for path in ROOT.glob("star*/__init__.py")]
    assert len(packages) >= 2 and all(f"COPY {name} {name}\n" in copied for name in (*packages, "dashboards"))


def test_nothing_is_told_to_the_makers_of_mlflow() -> None:
    code = "import star.tracking.writer; from mlflow.telemetry.utils import is_telemetry_disabled; print(is_telemetry_disabled())"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "True\n", done.stderr


def test_packages_are_typed() -> None:
    for package in ("star", "star_board", "star_objectives", "star_services"):
        assert (files(package) / "py.typed").is_file()


@pytest.mark.parametrize(("system", "said"), [("Darwin", "jobs run on Linux only"), ("MINGW64_NT", "in WSL")])
def test_another_system_is_refused_before_anything_is_set_up(system: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "uname").write_text(f"#!/bin/sh\necho {system}\n")
    (tmp_path / "uname").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    line = ["make", "-s", "-f", ROOT / "Makefile", "table4"]
    for name in ("uv.lock", "pyproject.toml", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode and said in done.stdout and not (tmp_path / ".venv").exists()


def test_the_compose_settings_of_the_docs_are_those_of_the_file() -> None:
    page, text = (ROOT / "docs" / "services.md").read_text(), (ROOT / "docker-compose.yml").read_text()
    (block,) = re.findall(r"```bash\n(STAR_HOST=.*?)```", page, re.DOTALL)
    for name in re.findall(r"^(\w+)=", block, re.M):
        assert f"${{{name}:" in text or re.search(rf"^ +{name}:$", text, re.M), name
