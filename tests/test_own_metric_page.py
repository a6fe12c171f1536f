"""docs/own-metric.md, followed to the letter: its files, its command, what it says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from star.rundir import read_json
from tests.helpers import ROOT, page_of_docs, star_exp

PAGE = (ROOT / "docs" / "own-metric.md").read_text()
RUN = ("study/metrics.yaml", "--profile", "tiny", "--plain")


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and the images where it says."""
    path = page_of_docs(PAGE, tmp_path_factory.mktemp("page"))
    done = star_exp("run", *RUN, home=path / "runs", cwd=path)
    assert done.returncode == 0 and "all done: 15 jobs computed" in done.stdout, done.stdout + done.stderr
    return path


def test_the_numbers_of_the_page_are_right(folder: Path) -> None:
    report = (folder / "runs" / "reports" / "metrics" / "tiny" / "report.md").read_text()
    for job in (folder / "runs" / "jobs").glob("brightness-*"):
        told = read_json(job / "job.json")
        assert told is not None
        images = np.load(Path(told["inputs"]["generate"]) / "out" / "images.npy")[:200] / 255
        found = json.loads((job / "result.json").read_text())["metrics"]
        assert found["mean"] == pytest.approx(images.mean()) and f"| {found['mean']:.3f} |" in report
        steps = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in steps] == list(range(1, 29))
    confidence = [
        json.loads(path.read_text())["metrics"]["mean"]
        for path in (folder / "runs" / "jobs").glob("confidence-*/result.json")
    ]
    assert len(set(confidence)) == 3 and all(1 / 32 < value < 1 for value in confidence), "better than chance"
    assert "## Brightness by row" in report


def test_it_is_computed_once_and_a_change_is_seen(folder: Path) -> None:
    again = star_exp("run", *RUN, home=folder / "runs", cwd=folder)
    assert "15 jobs, 0 to do" in again.stdout
    file = folder / "study" / "my_metrics.py"
    text = file.read_text()
    file.write_text(text + "\n# an afterthought\n")
    try:
        planned = star_exp("plan", *RUN[:3], "--json", home=folder / "runs", cwd=folder)
        actions = {(job["stage"], job["action"]) for job in json.loads(planned.stdout)["jobs"]}
        assert {stage for stage, action in actions if action == "run"} == {"brightness", "confidence"}
    finally:
        file.write_text(text)
    fewer = star_exp("plan", *RUN[:3], "--set", "brightness.images=100", "--json", home=folder / "runs", cwd=folder)
    to_do = [job["stage"] for job in json.loads(fewer.stdout)["jobs"] if job["action"] == "run"]
    assert to_do == ["brightness"] * 3


def test_it_goes_along_and_is_reported_without_its_code(folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    done = star_exp("export", *RUN[:3], "--to", str(bundle), home=folder / "runs", cwd=folder)
    assert done.returncode == 0, done.stderr
    away = folder.with_name("away")
    shutil.move(folder / "study", away)
    try:
        there = tmp_path / "home"
        assert star_exp("import", str(bundle), home=there).returncode == 0
        told = star_exp("report", "metrics", home=there)
        assert told.returncode == 0, told.stderr
        pages = [home / "reports" / "metrics" / "tiny" / "table.csv" for home in (there, folder / "runs")]
        assert pages[0].read_bytes() == pages[1].read_bytes()
        copies = list((there / "scripts").glob("*/my_metrics.py"))
        assert [copy.read_text() for copy in copies] == [(away / "my_metrics.py").read_text()]
    finally:
        shutil.move(away, folder / "study")
