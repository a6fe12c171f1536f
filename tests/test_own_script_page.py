"""docs/own-script.md, followed to the letter: its files, its commands, what it says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from star.rundir import read_json
from tests.helpers import DATA, ROOT, star_exp

PAGE = (ROOT / "docs" / "own-script.md").read_text()


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and the images where it says."""
    path = tmp_path_factory.mktemp("page")
    for name, text in re.findall(r"```(?:yaml|python)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    (path / "experiments").symlink_to(ROOT / "experiments")
    (path / "runs" / "data").mkdir(parents=True)
    (path / "runs" / "data" / "fashion-mnist").symlink_to(DATA)
    return path


def run(folder: Path, command: str, *arguments: str) -> str:
    done = star_exp(command, *arguments, "--plain", home=folder / "runs", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_script_and_what_comes_after_it(folder: Path) -> None:
    assert "all done: 9 jobs computed" in run(folder, "run", "study/widths.yaml")
    text = (folder / "runs" / "reports" / "widths" / "none" / "report.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| \**(?:<ins>)?([\d.]+)", text, re.MULTILINE))
    assert set(rows) == {"8", "32", "128"} and 60 < float(rows["8"]) < float(rows["128"]) < 95
    assert "Wider is better | **" in text and "n = 3 seeds (0, 1, 2)" in text
    assert "9 jobs, 0 to do" in run(folder, "run", "study/widths.yaml")
    planned = star_exp("plan", "study/widths.yaml", "--seeds", "0,1,2,3,4", "--json", home=folder / "runs", cwd=folder)
    assert [job["action"] for job in json.loads(planned.stdout)["jobs"]].count("run") == 6
    assert "all done: 9 jobs computed, 9 were there already" in run(folder, "run", "study/scored.yaml")
    assert "| 8 | 2 ± 0 |" in (folder / "runs" / "reports" / "scored" / "none" / "report.md").read_text()


def test_a_metric_of_ours_beside_table_4(folder: Path) -> None:
    """No key of the platform's own stages is another."""
    ours, theirs = (
        star_exp("plan", file, "--seeds", "0", "--json", home=folder / "runs", cwd=folder)
        for file in ("study/brightness.yaml", "experiments/table4.yaml")
    )
    assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr
    jobs = (json.loads(done.stdout)["jobs"] for done in (ours, theirs))
    keys = [{job["key"] for job in some if job["stage"] != "floor"} for some in jobs]
    assert keys[1] < keys[0] and len(keys[0] - keys[1]) == len(json.loads(ours.stdout)["runs"])


def test_the_search(folder: Path) -> None:
    said = run(folder, "search", "study/search.yaml", "--trials", "4")
    assert "4 trials (" in (folder / "runs" / "reports" / "widths-search" / "none" / "report.md").read_text(), said


def test_the_hugging_face_script(folder: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    run(folder, "run", "study/trainer.yaml")
    text = (folder / "runs" / "reports" / "trainer" / "none" / "report.md").read_text()
    assert len(re.findall(r"^\| 0\.0003 \||^\| 0\.003 \|", text, re.MULTILINE)) == 2
    for path in (folder / "runs" / "jobs").glob("tune-*"):
        assert 0.5 < read_json(path / "result.json")["metrics"]["eval_accuracy"] < 0.9
        steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
        assert steps == [20, 40, 60]
