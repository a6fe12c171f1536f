"""Numbers of one's own: logged by the command line or to MLflow alone, they live in a job's folder, and nothing loses them."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from star.pipeline import STAGES
from star.rundir import Home, JobDir
from star.scheduler.own import is_own, read
from star.spec.graph import curve_names, result_names
from tests.cli.conftest import copy_of, light
from tests.cli.test_as_run import texts
from tests.helpers import ROOT, star_exp
from tests.scheduler.lab import MANY, Lab


@pytest.fixture(scope="module")
def with_mine(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which an experiment was run whose table has a number that the platform does not know."""
    path = tmp_path_factory.mktemp("mine") / "home"
    shutil.copytree(finished, path, symlinks=True)
    column = (
        '    - {title: Mine, metric: "mlflow:my/score", better: higher}\n    - {title: Late, metric: "mlflow:late"}\n'
    )
    (path / "mine.yaml").write_text(MANY.read_text().replace("experiment: many", "experiment: mine") + column)
    (path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    done = light("run", path / "mine.yaml", "--plain", home=path)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture
def mine(with_mine: Path, tmp_path: Path) -> Lab:
    """A copy of it."""
    return copy_of(with_mine, tmp_path)


def rows(lab: Lab) -> dict[str, str]:
    """Row -> run, of seed 0."""
    shown = star_exp("status", "mine", "--json", home=lab.path)
    return {row["row"]: row["run"] for row in json.loads(shown.stdout)["rows"] if row["experiment"] == "mine"}


def log(lab: Lab, *arguments: str | Path) -> str:
    done = star_exp("log", *arguments, home=lab.path, cwd=lab.path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout


def table(path: Path) -> str:
    done = star_exp("report", "mine", "--replace", home=path, cwd=path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return (path / "reports" / "mine" / "tiny" / "table.csv").read_text()


def logged(path: Path, name: str) -> list[tuple[int, float, int]]:
    """(step, value, milliseconds) in MLflow, each once."""
    asked = "select m.step, m.value, m.timestamp from metrics m where m.key = ? order by m.step, m.value"
    return sqlite3.connect(path / "mlflow.sqlite").execute(asked, (name,)).fetchall()


def test_what_is_logged_is_in_the_folder_in_mlflow_and_in_the_table(mine: Lab) -> None:
    runs = rows(mine)
    first, second = list(runs)[:2]
    said = log(mine, runs[first], "my/score=0.625", "late=-3")
    assert "a table names it mlflow:my/score" in said
    (mine.path / "scores.csv").write_text(f"key,my/score,step\n{runs[second]},0.25,1\n{runs[second]},0.375,2\n")
    log(mine, "--from", "scores.csv")
    assert [step for step, _, _ in logged(mine.path, "my/score")] == [0, 1, 2]
    lines = [line for line in table(mine.path).splitlines() if "0.625" in line or "0.375" in line]
    assert [line.split(",")[0] for line in lines] == [first, second], "of a curve the newest counts"
    assert "own:\n  late: -3.0\n  my/score: 0.625" in star_exp("show", runs[first], home=mine.path).stdout
    kept = [path for path in mine.path.glob("jobs/*/own.jsonl")]
    assert {path.parent.name.split("-")[0] for path in kept} == {"train"}


def test_one_number_has_one_value_at_a_step(mine: Lab) -> None:
    """A table by epochs whose column of steps has another name would leave whichever stands last."""
    run = next(iter(rows(mine).values()))
    (mine.path / "twice.csv").write_text(f"key,my/score\n{run},1\n{run[:9]},2\n")
    done = star_exp("log", "--from", "twice.csv", home=mine.path, cwd=mine.path)
    assert done.returncode == 2 and "twice.csv:3: my/score of" in done.stderr, done.stderr
    assert "at step 0 stands at twice.csv:2 too; keep one, or give each its `step`" in done.stderr
    assert not logged(mine.path, "my/score")
    (mine.path / "steps.csv").write_text(f"key,step,my/score\n{run},1,1\n{run[:9]},2,2\n")
    assert "logged my/score for 1 run; a table names it" in log(mine, "--from", "steps.csv")
    for text, says in (
        (f"key;my/score\n{run};1\n".encode(), "between semicolons; separate them by commas"),
        (f"key,größe\n{run},1\n".encode("latin-1"), "is not UTF-8 text; save it as that"),
    ):
        (mine.path / "odd.csv").write_bytes(text)
        assert says in star_exp("log", "--from", "odd.csv", home=mine.path, cwd=mine.path).stderr
    assert "of which run? Give its KEY first" in star_exp("log", "a=1", home=mine.path).stderr


def test_a_number_of_a_job_is_one_of_all_runs_with_it(mine: Lab) -> None:
    shown = json.loads(star_exp("show", next(iter(rows(mine).values())), "--json", home=mine.path).stdout)
    log(mine, shown["stages"]["encode"]["key"], "my/score=4")
    assert len(logged(mine.path, "my/score")) >= len(rows(mine))
    head, *lines = csv.reader(table(mine.path).splitlines())
    assert [line[head.index("Mine")] for line in lines] == ["4.0"] * len(rows(mine))
    cells = json.loads((mine.path / "reports" / "mine" / "tiny" / "provenance.json").read_text())["cells"]
    job = {"encode": shown["stages"]["encode"]["key"]}
    assert all(source["stages"] == job for cell in cells if cell["column"] == "Mine" for source in cell["sources"])
    log(mine, shown["run"], "my/score=5")
    table(mine.path)
    cells = json.loads((mine.path / "reports" / "mine" / "tiny" / "provenance.json").read_text())["cells"]
    found = [source for cell in cells if cell["column"] == "Mine" for source in cell["sources"]]
    assert sorted((source["value"], bool(source["stages"])) for source in found)[-1] == (5, False), (
        "one of the run's own"
    )


def by_hand(path: Path, experiment: str = "mine") -> None:
    """As a script of the user's own does, with a curve."""
    client = MlflowClient(f"sqlite:///{path / 'mlflow.sqlite'}")
    star = client.get_experiment_by_name("star")
    assert star is not None
    for run in client.search_runs([star.experiment_id], f"tags.`star.experiment.{experiment}` != ''"):
        for step in (0, 5):
            client.log_metric(run.info.run_id, "my/score", 0.1 + step + len(run.info.run_id), step=step)
        client.log_metric(run.info.run_id, "late", 7)


@pytest.mark.parametrize("taken_over_by", ["report", "reindex", "run"])
def test_what_was_logged_to_mlflow_alone_outlives_its_database(mine: Lab, taken_over_by: str) -> None:
    by_hand(mine.path)
    if taken_over_by == "report":
        table(mine.path)
    elif taken_over_by == "reindex":
        assert star_exp("reindex", home=mine.path).returncode == 0
    else:
        assert light("run", mine.path / "mine.yaml", "--plain", home=mine.path).returncode == 0
    before, rest = logged(mine.path, "my/score"), logged(mine.path, "late")
    assert len(before) == 2 * len(rows(mine)) and rest
    text = table(mine.path)
    assert logged(mine.path, "my/score") == before, "nothing is carried back as something new"
    for name in ("mlflow.sqlite", "ledger.sqlite"):
        (mine.path / name).unlink()
    assert star_exp("reindex", home=mine.path).returncode == 0
    assert logged(mine.path, "my/score") == before and logged(mine.path, "late") == rest
    assert table(mine.path) == text
    assert star_exp("reindex", "--mlflow", home=mine.path).returncode == 0
    assert logged(mine.path, "my/score") == before, "carried twice it is one entry"


@pytest.mark.parametrize("how", ["log", "mlflow"])
def test_a_colleague_gets_them_too(mine: Lab, tmp_path: Path, how: str) -> None:
    """One was told by the command line, or only to MLflow, and never reported here."""
    if how == "log":
        lines = [f"{run},0.625" for run in rows(mine).values()]
        (mine.path / "scores.csv").write_text("\n".join(["key,my/score", *lines]))
        log(mine, "--from", "scores.csv")
    else:
        by_hand(mine.path)
    bundle, there = tmp_path / "mine.tar.gz", tmp_path / "there"
    done = star_exp("export", "mine", "--to", bundle, home=mine.path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    table(mine.path)
    before = texts(mine.path / "reports", "mine")
    shutil.rmtree(mine.path)
    assert star_exp("import", bundle, home=there, cwd=tmp_path).returncode == 0
    shutil.rmtree(there / "reports")
    table(there)
    assert texts(there / "reports", "mine") == before
    assert b"0.625" in before["table.csv"] or how == "mlflow"


def test_a_bundle_adds_to_jobs_that_are_here_already(mine: Lab, tmp_path: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(mine.path, there, symlinks=True)
    first, second = list(rows(mine).values())[:2]
    log(mine, first, "my/score=1")
    assert star_exp("log", second, "my/score=2", home=there).returncode == 0
    bundle = tmp_path / "mine.tar.gz"
    assert star_exp("export", "mine", "--to", bundle, home=mine.path).returncode == 0
    for _ in range(2):
        assert star_exp("import", bundle, home=there).returncode == 0
    assert [value for _, value, _ in logged(there, "my/score")] == [1, 2]


def test_rerun_keeps_what_nobody_computes_again(mine: Lab) -> None:
    run = next(iter(rows(mine).values()))
    log(mine, run, "my/score=1")
    assert star_exp("rerun", run, home=mine.path).returncode == 0
    assert light("run", mine.path / "mine.yaml", "--plain", home=mine.path).returncode == 0
    assert [value for _, value, _ in logged(mine.path, "my/score")] == [1] and ",1," in table(mine.path)


def test_a_bundle_brings_back_what_is_to_be_computed_again(mine: Lab, tmp_path: Path) -> None:
    """Its result, beside the numbers that `rerun` has kept; a line that was cut comes nowhere."""
    run = next(iter(rows(mine).values()))
    log(mine, run, "my/score=1")
    with next(mine.path.glob("jobs/*/own.jsonl")).open("a") as half:
        half.write('{"time": 17')
    bundle = tmp_path / "mine.tar.gz"
    assert star_exp("export", "mine", "--to", bundle, home=mine.path).returncode == 0
    log(mine, run, "late=2")
    assert star_exp("rerun", run, home=mine.path).returncode == 0
    (folder,) = {path.parent for path in mine.path.glob("jobs/train-*/own.jsonl")}
    assert [path.name for path in folder.iterdir()] == ["own.jsonl"]
    for _ in range(2):
        assert star_exp("import", bundle, home=mine.path).returncode == 0
    assert (folder / "result.json").exists() and star_exp("status", home=mine.path).returncode == 0
    assert sorted(entry[2:] for entry in read(JobDir(folder), run)) == [("late", 2), ("my/score", 1)]


def test_what_mlflow_refuses_keeps_nothing_else_back(mine: Lab) -> None:
    """A line that somebody else's program wrote."""
    first, second = list(rows(mine).values())[:2]
    folder = next(mine.path.glob("jobs/train-*"))
    (folder / "own.jsonl").write_text(
        json.dumps({"time": 1.0, "step": 0, "run": None, "metrics": {"bad//name": 1.0}}) + "\n"
    )
    log_run = [
        run for run in (first, second) if folder.name.split("-")[1] not in star_exp("show", run, home=mine.path).stdout
    ]
    done = star_exp("log", log_run[0], "my/score=3", home=mine.path)
    assert done.returncode == 0 and [value for _, value, _ in logged(mine.path, "my/score")] == [3]
    again = star_exp("reindex", "--mlflow", home=mine.path)
    assert again.returncode == 0 and "are not carried to MLflow" in again.stderr


MISTAKES = [
    (["RUN"], "give at least one NAME=VALUE"),
    (["RUN", "my/score"], "'my/score' is no NAME=VALUE"),
    (["RUN", "my/score=high"], "'high' is no finite number"),
    (["RUN", "my/score=nan"], "'nan' is no finite number"),
    (["RUN", "probe/accuracy=1"], "begins as the platform's own numbers do"),
    (["RUN", "a'b=1"], "is no name that MLflow takes"),
    (["RUN", "my//score=1"], "is no name that MLflow takes"),
    (["RUN", "/my=1"], "is no name that MLflow takes"),
    (["RUN", "a/../b=1"], "is no name that MLflow takes"),
    (["RUN", "x" * 241 + "=1"], "is no name that MLflow takes"),
    (["RUN", "my/score=1", "--step", str(2**63)], "--step"),
    (["--from", "steps.csv"], "steps.csv:2: step: '99999999999999999999'"),
    (["0123456789abcdef", "my/score=1"], "0123456789abcdef"),
    ([], "give KEY and NAME=VALUE"),
    (["--from", "none.csv"], "none.csv: cannot be read"),
    (["--from", "columns.csv"], "columns.csv:1: has the columns run, my/score; it needs `key`"),
    (["--from", "number.csv"], "number.csv:3: my/score: 'x' is no finite number"),
    (["--from", "fields.csv"], "fields.csv:2: has not as many fields"),
    (["--from", "keys.csv"], "keys.csv:3: "),
]


def test_a_mistake_is_told_and_nothing_is_written(mine: Lab) -> None:
    run = next(iter(rows(mine).values()))
    for name, text in {
        "columns": "run,my/score\na,1\n",
        "number": f"key,my/score\n{run},1\n{run},x\n",
        "steps": f"key,my/score,step\n{run},1,99999999999999999999\n",
        "fields": f"key,my/score\n{run}\n",
        "keys": f"key,my/score\n{run},1\nffffffffffffffff,1\n",
    }.items():
        (mine.path / f"{name}.csv").write_text(text)
    for arguments, says in MISTAKES:
        given = [run if one == "RUN" else one for one in arguments]
        done = star_exp("log", *given, home=mine.path, cwd=mine.path)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)
    assert not list(mine.path.glob("jobs/*/own.jsonl"))


def test_a_line_that_was_cut_is_left_and_a_damaged_one_is_told(mine: Lab) -> None:
    run = next(iter(rows(mine).values()))
    log(mine, run, "my/score=1")
    (file,) = mine.path.glob("jobs/*/own.jsonl")
    with file.open("a") as half:
        half.write('{"time": 17')
    log(mine, run, "my/score=2", "--step", "1")
    assert [entry[3] for entry in read(JobDir(file.parent), run)] == [1, 2]
    file.write_text("nonsense\n" + file.read_text())
    done = star_exp("report", "mine", home=mine.path)
    assert done.returncode == 0 and "own.jsonl:1: is damaged" in done.stderr, "the table does not need it"
    shown = star_exp("show", run, home=mine.path)
    assert shown.returncode == 2 and "own.jsonl:1: is damaged" in shown.stderr
    rebuilt = star_exp("reindex", home=mine.path)
    assert rebuilt.returncode == 0 and "own.jsonl:1: is damaged" in rebuilt.stderr


def test_which_names_are_the_platforms(lab: Lab) -> None:
    """All that the stages record, whatever a version of the code calls it, and nothing else."""
    found = sqlite3.connect(lab.path / "mlflow.sqlite").execute("select distinct key from metrics")
    ours = {name for (name,) in found} | set(curve_names(STAGES)) | {"train/lr", "tokenizer/codebook_loss"}
    ours |= {name.replace("{extractor}", "inception") for name in result_names(STAGES)}
    stages = {path.name.split("-")[0]: path.name.split("-")[1] for path in lab.path.glob("jobs/*")}
    home = Home(lab.path)
    assert len(ours) > 30 and "dataset/loss" in ours and not [name for name in ours if is_own(home, name, stages)]
    assert all(is_own(home, name, stages) for name in ("my/score", "clip", "score/clip", "train/loss2", "systems/x"))
