"""docs/first-hour.md, followed to the letter: its files and its commands in their order, and what it says one sees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers import DATA, ROOT

PAGE = (ROOT / "docs" / "first-hour.md").read_text()


@pytest.fixture(scope="module")
def said(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command of the page printed, in a clone whose profile `fashion` is a tiny one, after `make table4`."""
    folder = tmp_path_factory.mktemp("clone")
    tiny = yaml.safe_load((ROOT / "tests" / "profiles" / "tiny.yaml").read_text())
    (folder / "experiments" / "profiles").mkdir(parents=True)
    (folder / "experiments" / "profiles" / "fashion.yaml").write_text(
        yaml.safe_dump(tiny | {"presets": {"B": {}, "50ep": {}}})
    )
    shutil.copy(ROOT / "experiments" / "table4.yaml", folder / "experiments")
    (folder / "study").mkdir()
    (folder / "runs" / "data").mkdir(parents=True)
    (folder / "runs" / "data" / "fashion-mnist").symlink_to(DATA)
    found = {"folder": str(folder), "make table4": shell("star-exp run experiments/table4.yaml --seeds 0", folder)}
    for language, content in re.findall(r"```(sh|yaml|python)\n(.*?)```", PAGE, re.DOTALL):
        if language == "sh":
            for command in content.splitlines():
                found[command] = shell(command, folder)
            continue
        head, text = content.split("\n", 1)
        name, _, below = head.removeprefix("# ").partition(", ")
        with (folder / name).open("a" if below else "x") as file:
            file.write(text)
    return found


def shell(command: str, folder: Path) -> str:
    """Output of a command as a reader types it, with `.venv/bin` activated."""
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STAR_")}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment | {"PATH": search}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr)
    return done.stdout + done.stderr


def test_looking_computes_nothing(said: dict[str, str]) -> None:
    assert "table4" in said["star-exp status"]
    assert "unchanged" in said["star-exp run experiments/table4.yaml --seeds 0"]


def test_a_row_a_figure(said: dict[str, str]) -> None:
    plan = said["star-exp plan study/hotter.yaml"]
    assert "to do: 4 of 13 jobs" in plan and re.search(r"ST-AR +seed 0 .* 9 reuse$", plan, re.MULTILINE), plan
    report = Path(said["folder"]) / "runs" / "reports" / "hotter" / "fashion"
    assert "| 0.5 |" in (report / "report.md").read_text() and (report / "probe.png").exists()
    again = said["star-exp run study/hotter.yaml"]  # the last time that it is typed: for the figure
    assert "13 jobs, 0 to do" in again and "probe.pdf" in again, again


def test_images(said: dict[str, str]) -> None:
    plan = said["star-exp plan study/shapes.yaml"]
    assert (
        "3 classes (circle, square, triangle); 2,138 images to train on (the folder), 262 held out (a share by hash)"
        in plan
    ), plan
    report = Path(said["folder"]) / "runs" / "reports" / "shapes" / "fashion"
    assert (report / "samples.png").exists()


def test_a_loss_and_the_bundle(said: dict[str, str]) -> None:
    assert "4 jobs computed" in said["star-exp run study/doubt.yaml"], said["star-exp run study/doubt.yaml"]
    jobs = Path(said["folder"]) / "runs" / "jobs"
    assert sum("doubt_loss" in path.read_text() for path in jobs.glob("train-*/metrics.jsonl")) == 1
    assert "6 numbers: 6 identical" in said["star-exp verify doubt.tar.gz"]
