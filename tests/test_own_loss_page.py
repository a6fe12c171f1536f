"""docs/own-loss.md, followed to the letter: its files, its command, what it says of them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, page_of_docs, star_exp

PAGE = (ROOT / "docs" / "own-loss.md").read_text()
SMALL = ("--profile", "tiny", "--seeds", "0")


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and the images where it says."""
    return page_of_docs(PAGE, tmp_path_factory.mktemp("page"))


def planned(folder: Path, file: str | Path, *arguments: str) -> dict[str, str]:
    """Row -> key of its training."""
    done = star_exp("plan", str(file), *SMALL, *arguments, "--json", home=folder / "runs", cwd=folder)
    assert done.returncode == 0, done.stderr
    return {run["label"]: run["stages"]["train"] for run in json.loads(done.stdout)["runs"]}


def test_the_experiment_of_the_page(folder: Path) -> None:
    done = star_exp("run", "study/clusters.yaml", *SMALL, "--plain", home=folder / "runs", cwd=folder)
    assert done.returncode == 0 and "all done: 9 jobs computed" in done.stdout, done.stdout + done.stderr
    report = folder / "runs" / "reports" / "clusters" / "tiny"
    assert (report / "loss.png").exists() and "| with small clusters |" in (report / "report.md").read_text()
    lines = (folder / "runs" / "jobs").glob("train-*/metrics.jsonl")
    curves = [[json.loads(line)["metrics"] for line in path.read_text().splitlines()] for path in lines]
    theirs = [curve for curve in curves if "grouped_loss" in curve[0]]
    assert len(curves) == 3 and len(theirs) == 2
    for curve in theirs:
        first, last = (curve[at]["grouped_loss"] for at in (0, -2))
        assert 0 < last < first, "it is trained on"
        whole = curve[0]["loss"] - 0.5 * curve[0]["grouped_loss"]
        assert whole == pytest.approx(
            curve[0]["ar_loss"]
            + curve[0]["mim_loss"]
            + 0.25 * (curve[0]["inter_step_loss"] + curve[0]["inter_view_loss"]),
            rel=1e-5,
        )
    again = star_exp("run", "study/clusters.yaml", *SMALL, "--plain", home=folder / "runs", cwd=folder)
    assert "9 jobs, 0 to do" in again.stdout


def test_what_a_change_computes_again(folder: Path) -> None:
    before = planned(folder, "study/clusters.yaml")
    plain = planned(folder, ROOT / "tests" / "tiny.yaml")
    assert before["ST-AR"] == plain["mask_ratio=0.25"] and len(set(before.values())) == 3
    file = folder / "study" / "my_lab.py"
    text = file.read_text()
    try:
        file.write_text(text.replace("summed / ", "2 * summed / "))
        after = planned(folder, "study/clusters.yaml")
        assert [row for row in before if before[row] != after[row]] == ["with clusters", "with small clusters"]
        done = star_exp("run", "study/clusters.yaml", *SMALL, home=folder / "runs", cwd=folder)
        assert done.returncode == 2 and "terms.grouped.plugin" in done.stderr and "--fork" in done.stderr
    finally:
        file.write_text(text)


def test_a_term_with_a_version_keeps_its_key_when_a_neutral_field_is_added(folder: Path) -> None:
    file = folder / "study" / "my_lab.py"
    text = file.read_text()
    first = text.replace('    name = "grouped"\n', '    name = "grouped"\n    version = 1\n')
    grown = first.replace("    size:", '    neutral = {"sharpness": 1.0}\n    sharpness: float = 1.0\n    size:')
    found = {}
    try:
        for name, content, sets in (
            ("plain", text, ()),
            ("first", first, ()),
            ("grown", grown, ()),
            ("sharper", grown, ("--set", "terms.grouped.sharpness=2.0")),
            ("second", first.replace("version = 1", "version = 2"), ()),
        ):
            file.write_text(content)
            found[name] = planned(folder, "study/clusters.yaml", *sets)["with clusters"]
    finally:
        file.write_text(text)
    assert found["first"] == found["grown"] and len(set(found.values())) == 4


def test_the_test_of_the_page(folder: Path) -> None:
    """It passes; and fails for a loss that divides by what one pass holds."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(folder / "temp"),
        "test_my_lab.py",
    ]
    done = subprocess.run(command, cwd=folder / "study", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    file = folder / "study" / "my_lab.py"
    text = file.read_text()
    file.write_text(text.replace("batch.codes[:, : batch.student_views].numel()", "targets.numel()"))
    try:
        assert subprocess.run(command, cwd=folder / "study", capture_output=True).returncode == 1
    finally:
        file.write_text(text)


def test_the_second_example_of_the_page(folder: Path) -> None:
    """A head, a teacher and draws of its own; a row without the term shows none of its fields."""
    done = star_exp("run", "study/foresight.yaml", *SMALL, "--plain", home=folder / "runs", cwd=folder)
    assert done.returncode == 0 and "all done: " in done.stdout, done.stdout + done.stderr
    table = folder / "runs" / "reports" / "foresight" / "tiny" / "table.csv"
    with table.open() as file:
        rows = {(row["Weight"], row["Layer"]): row["Foresight loss"] for row in csv.DictReader(file)}
    assert set(rows) == {("0.0", "-"), ("0.5", "1/2")} and 0 < float(rows["0.5", "1/2"]) < 1


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("    teacher = TeacherReads()  #", "    #", "its __init__ sets a teacher, and the class has none; write `teacher ="),
        ("config.positions", "config.position", "foresight.py:22: Foresight cannot be made: AttributeError"),
        ("    def build", "    changes = frozenset({'input'})\n\n    def build", "changes: 'input' is nothing that a term changes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_term_is_told_by_the_plan(
    folder: Path, tmp_path: Path, old: str, new: str, expected: str
) -> None:
    study = shutil.copytree(folder / "study", tmp_path / "study", symlinks=True)
    text = (study / "foresight.py").read_text()
    assert old in text
    (study / "foresight.py").write_text(text.replace(old, new))
    done = star_exp("plan", "study/foresight.yaml", *SMALL, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_layer_that_is_not_there_and_a_weight_that_was_forgotten(folder: Path) -> None:
    line = ["plan", "study/foresight.yaml", *SMALL]
    done = star_exp(*line, "--set", "terms.foresight.layer=1/3", home=folder / "runs", cwd=folder)
    assert (
        done.returncode == 2 and "terms.foresight: " in done.stderr and "hits no layer of a model with 2" in done.stderr
    )
    file = folder / "study" / "forgotten.yaml"
    text = (folder / "study" / "foresight.yaml").read_text()
    file.write_text(text.replace("foresight: {weight: 0.5}", "foresight: {layer: 1}"))
    done = star_exp("plan", "study/forgotten.yaml", *SMALL, home=folder / "runs", cwd=folder)
    assert (
        done.returncode == 2
        and "forgotten.yaml:8: terms.foresight: its weight is 0, so nothing of it is built" in done.stderr
    )


def test_what_goes_wrong_in_a_job_names_the_term(folder: Path, tmp_path: Path) -> None:
    study = shutil.copytree(folder / "study", tmp_path / "study", symlinks=True)
    file = study / "foresight.py"
    file.write_text(
        file.read_text().replace('return {"foresight_loss": apart.sum()', 'return {"foresight_loss": apart')
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(folder / "runs" / "data")
    line = ["run", "study/foresight.yaml", *SMALL, "--rows", "foresight", "--plain"]
    done = star_exp(*line, home=tmp_path / "home", cwd=tmp_path)
    assert (
        done.returncode == 1
        and "foresight: loss gave foresight_loss of shape (8, 2, 8); give one number" in done.stderr
    )
    file.write_text(file.read_text().replace("batch.drawn[self.name] + 1]", "batch.drawn['else'] + 1]"))
    done = star_exp(*line, "--fork", home=tmp_path / "home", cwd=tmp_path)
    assert (
        done.returncode == 1 and "in targets of the term foresight" in star_exp("status", home=tmp_path / "home").stdout
    )
