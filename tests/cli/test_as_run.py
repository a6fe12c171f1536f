"""An experiment by its name, as it was run: reported, judged and exported, here and at a colleague's, with nothing lost on the way."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient

from star.ledger.states import QUEUED
from star.rundir import read_json, write_json
from tests.cli.conftest import copy_of, light
from tests.helpers import ROOT, star_exp
from tests.scheduler.lab import MANY, Lab


def texts(reports: Path, name: str) -> dict[str, bytes]:
    """All files of a report."""
    return {path.name: path.read_bytes() for path in (reports / name / "tiny").iterdir()}


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished home with an experiment that the command line made of the same file, which is gone now."""
    lab = copy_of(finished, tmp_path_factory.mktemp("made"))
    file = lab.path / "mine.yaml"
    file.write_text(MANY.read_text())
    (lab.path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    options = ["--seeds", "3,4", "--set", "probe.epochs=7", "--set", "probe.warmup_epochs=2", "--name", "mine"]
    done = light("run", file, "--plain", *options, home=lab.path)
    assert done.returncode == 0, done.stdout + done.stderr
    file.unlink()
    return lab.path


@pytest.fixture
def changed(made: Path, tmp_path: Path) -> Lab:
    """A copy of it."""
    return copy_of(made, tmp_path)


def test_a_report_by_name_is_of_what_was_run(changed: Lab) -> None:
    before = texts(changed.path / "reports", "mine")
    assert b"seeds (3, 4)" in before["report.md"]
    shutil.rmtree(changed.path / "reports")
    done = star_exp("report", "mine", home=changed.path)
    assert done.returncode == 0, done.stderr
    assert texts(changed.path / "reports", "mine") == before
    both = star_exp("report", "mine", "many", "--out", changed.path / "elsewhere", home=changed.path)
    assert both.returncode == 0 and texts(changed.path / "elsewhere", "mine") == before


def test_a_colleague_has_the_same_bytes(changed: Lab, tmp_path: Path) -> None:
    """From another folder, without the file, the profile or the reports."""
    before = texts(changed.path / "reports", "mine")
    bundle, there = tmp_path / "mine.tar.gz", tmp_path / "there"
    assert star_exp("export", "mine", "--to", bundle, home=changed.path).returncode == 0
    shutil.rmtree(changed.path)
    done = star_exp("import", bundle, home=there, cwd=tmp_path)
    assert done.returncode == 0 and "its file:" in done.stdout, done.stderr
    assert texts(there / "reports", "mine") == before
    shutil.rmtree(there / "reports")
    assert star_exp("report", "mine", home=there, cwd=tmp_path).returncode == 0
    assert texts(there / "reports", "mine") == before
    (there / "data").mkdir()
    (there / "data" / "fashion-mnist").symlink_to(ROOT / "runs" / "data" / "fashion-mnist")
    written = there / "experiments" / "mine@tiny" / "mine.yaml"
    plan = json.loads(star_exp("plan", written, "--json", home=there).stdout)
    assert {job["action"] for job in plan["jobs"]} <= {"reuse", "not needed"} and len(plan["runs"]) == 8


def test_a_cell_links_to_the_runs_it_was_made_of(changed: Lab) -> None:
    """As MLflow itself finds them: one for each seed of the row."""
    reports = changed.path / "reports" / "mine" / "tiny"
    cells = json.loads((reports / "provenance.json").read_text())["cells"]
    made = {tuple(sorted(source["run"] for source in cell["sources"])) for cell in cells}
    links = re.findall(
        r'href="http://127.0.0.1:5000/#/experiments/(\d+)/runs\?searchFilter=([^"]+)"',
        (reports / "table.html").read_text(),
    )
    client = MlflowClient(f"sqlite:///{changed.path}/mlflow.sqlite")
    shown = {
        tuple(sorted(run.data.tags["star.run"] for run in client.search_runs([experiment], unquote(wanted))))
        for experiment, wanted in set(links)
    }
    assert shown == made and all(len(runs) == 2 for runs in shown)


def test_a_name_at_a_profile(changed: Lab) -> None:
    """As `claims --plan` and `cancel` print it."""
    for command in (["status", "mine@tiny"], ["report", "mine@tiny"]):
        done = star_exp(*command, home=changed.path)
        assert done.returncode == 0 and "mine" in done.stdout, (command, done.stderr)
    for command in ("status", "report", "forget"):
        done = star_exp(command, "mine@fashion", home=changed.path)
        assert done.returncode == 2 and "mine" in done.stderr and "tiny" in done.stderr, (command, done.stderr)
    assert star_exp("forget", "mine@tiny", home=changed.path).returncode == 0
    assert star_exp("status", "mine", home=changed.path).returncode == 2


def test_what_a_name_may_not_be_given(changed: Lab) -> None:
    for arguments, says in (
        (["report", "nothing"], "nothing: no experiment of that name was run in"),
        (["report", "mine", "--seeds", "1"], "--seeds: mine is taken as it was run"),
        (["report", "mine", "--set", "optim.steps=3"], "--set: mine is taken as it was run"),
        (["claims", "mine", "--name", "other"], "--name: mine is taken as it was run"),
        (["report", "mine", "--profile", "fashion"], "--profile fashion: mine was not run at it"),
        (["claims", "mine"], "declares no claims"),
    ):
        done = star_exp(*arguments, home=changed.path)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_fuller_report_is_kept_unless_told(changed: Lab) -> None:
    """Planned from the file a table would be empty, or of one seed; what lies there has two."""
    (changed.path / "profiles").unlink()
    before = texts(changed.path / "reports", "mine")
    for options in (["--name", "mine"], ["--name", "mine", "--seeds", "3", "--set", "probe.epochs=7"]):
        done = star_exp("report", MANY, *options, home=changed.path)
        assert done.returncode == 2 and "report.md was kept: it holds" in done.stderr, done.stdout + done.stderr
        assert "`star-exp report mine` reports it as it was last run" in done.stderr
        assert texts(changed.path / "reports", "mine") == before
    assert star_exp("report", MANY, "--name", "mine", "--replace", home=changed.path).returncode == 0
    assert texts(changed.path / "reports", "mine") != before
    assert star_exp("report", "mine", home=changed.path).returncode == 0, "more may always take the place of less"
    assert texts(changed.path / "reports", "mine") == before


def test_a_run_of_fewer_seeds_keeps_the_report_of_more(changed: Lab) -> None:
    before = texts(changed.path / "reports", "mine")
    sets = ["--set", "probe.epochs=7", "--set", "probe.warmup_epochs=2", "--name", "mine"]
    done = light("run", MANY, "--plain", "--seeds", "3", *sets, home=changed.path)
    assert done.returncode == 0 and "note: " in done.stderr and "was kept" in done.stderr
    assert texts(changed.path / "reports", "mine") == before


def test_an_index_of_fewer_is_not_written_over_one_of_more(changed: Lab, tmp_path: Path) -> None:
    both = tmp_path / "both"
    (both / "experiments").mkdir(parents=True)
    (both / "experiments" / "profiles").symlink_to(ROOT / "tests" / "profiles")
    for name in ("many", "mine"):
        text = (changed.path / "experiments" / f"{name}@tiny" / f"{name}.yaml").read_text()
        (both / "experiments" / f"{name}.yaml").write_text(text)
    assert star_exp("report", "--all", home=changed.path, cwd=both).returncode == 0
    index = changed.path / "reports" / "index.md"
    before = index.read_text()
    (both / "experiments" / "mine.yaml").unlink()
    done = star_exp("report", "--all", home=changed.path, cwd=both)
    assert done.returncode == 2 and "index.md was kept: it has 2 experiments" in done.stderr
    assert index.read_text() == before
    assert star_exp("report", "--all", "--replace", home=changed.path, cwd=both).returncode == 0
    assert index.read_text() != before


def test_a_record_of_another_version_names_the_code_that_reads_it(lab: Lab) -> None:
    path = lab.path / "experiments" / "many@tiny.json"
    record = read_json(path)
    record["rows"][0]["run"]["spec"]["optim"]["momentum_of_the_future"] = 1
    write_json(path, record)
    done = star_exp("report", "many", home=lab.path)
    assert done.returncode == 2 and "was written by another version of star" in done.stderr
    (code,) = {Path(word.partition("=")[2]) for word in done.stderr.replace("`", "").split() if "PYTHONPATH=" in word}
    assert (code / "star" / "report" / "table.py").is_file()


def test_what_is_run_lies_in_the_home_and_not_in_the_checkout(lab: Lab, tmp_path: Path) -> None:
    done = light("run", MANY, "--plain", "--name", "third", home=lab.path)
    assert done.returncode == 0 and (lab.path / "reports" / "third" / "tiny" / "report.md").exists()
    shown = star_exp("report", "--help").stdout
    assert "HOME/reports" in shown


def status(lab: Lab) -> dict[str, str]:
    """Run -> its state in MLflow."""
    with sqlite3.connect(lab.path / "mlflow.sqlite") as store:
        rows = store.execute(
            "select value, status from runs join tags on runs.run_uuid = tags.run_uuid where key = 'star.run'"
        )
        return dict(rows.fetchall())


def test_cancelled_runs_are_ended_in_mlflow(lab: Lab) -> None:
    """Also while a scheduler of something else is at work, and when no experiment has the run any more."""
    plan = lab.plan()
    one, other = plan.runs[0], plan.runs[1]
    for run in (one, other):
        assert star_exp("rerun", run.stages["probe"], home=lab.path).returncode == 0
    assert {job.key for job in lab.ledger.jobs.of_state(QUEUED)} == {run.stages["probe"] for run in (one, other)}
    path = lab.path / "experiments" / "many@tiny.json"
    record = read_json(path)
    record["rows"] = [row for row in record["rows"] if row["run"]["key"] != other.key]  # it was left out since
    write_json(path, record)
    for run in (one, other):
        assert star_exp("cancel", run.stages["probe"], home=lab.path).returncode == 0
    found = status(lab)
    assert found[one.key] == found[other.key] == "KILLED"
    assert set(found.values()) == {"KILLED", "FINISHED"}


def test_a_sweep_of_rows_is_reported_by_its_name(lab: Lab) -> None:
    """Rows at the points of an axis of the command line; one of them masks nothing, and is not drawn at a mask ratio."""
    file = lab.path / "mine.yaml"
    rows = (
        "rows:\n  - {label: plain, spec: {selfguided: {mim_weight: 0, contrastive_weight: 0}}}\n  - {label: guided}\n"
    )
    figure = "figures: [{name: ablation, kind: ablation, title: A, x: selfguided.mask_ratio}]\n"
    text = MANY.read_text().replace("experiment: many", "experiment: mine")
    file.write_text(text.replace("axes:\n  selfguided.mask_ratio: [0.1, 0.2, 0.3, 0.4]\n", rows) + figure)
    (lab.path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    sweep = ["--set", "selfguided.mask_ratio=[0.1, 0.2]", "--set", "optim.lr=[0.1, 0.3]"]
    done = light("run", file, "--plain", *sweep, home=lab.path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plain: stands once for all values of selfguided.mask_ratio" in done.stderr
    before = texts(lab.path / "reports", "mine")
    lines = list(csv.DictReader(before["table.csv"].decode().splitlines()))
    assert [(line["row"], line["Mask ratio"], line["lr"]) for line in lines] == [
        *[(f"plain, lr={rate}", "-", rate) for rate in ("0.1", "0.3")],
        *[(f"guided, mask_ratio={m}, lr={rate}", m, rate) for m in ("0.1", "0.2") for rate in ("0.1", "0.3")],
    ]
    drawing = lab.path / "reports" / "mine" / "tiny" / "ablation.pdf"
    assert drawing.is_file()
    shutil.rmtree(lab.path / "reports")
    file.unlink()
    assert star_exp("report", "mine", home=lab.path).returncode == 0
    assert texts(lab.path / "reports", "mine") == before and drawing.is_file()
