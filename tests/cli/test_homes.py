"""Homes as people have them: read-only, moved, copied, oddly named, on a full disk, damaged. What every command says is one sentence."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from star import sqlite_file
from star.cli.failures import guarded
from star.cli.main import cli
from star.rundir import Home
from star.sqlite_file import url_of
from star.tracking.writer import MLFLOW_EXPERIMENT, Tracker
from tests.cli.conftest import light
from tests.helpers import ROOT
from tests.scheduler.lab import MANY, Lab

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Say]:
    """A command in this process -> its exit code, and all that it printed; never a traceback."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        code = guarded(lambda: cli(list(map(str, arguments))))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    yield run
    gc.enable()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def looking(lab: Lab, elsewhere: Path) -> list[list[str]]:
    """Commands that only look."""
    key = next(lab.path.glob("jobs/probe-*")).name  # without a ledger of this process, which would hold files open
    return [
        ["status"],
        ["show", key],
        ["why", key],
        ["plan", str(MANY)],
        ["report", str(MANY), "--out", str(elsewhere / "reports")],
        ["export", str(MANY), "--to", str(elsewhere / "bundle.tar.gz")],
        ["gc"],
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_home_that_may_only_be_read(lab: Lab, small_disk: Path, say: Say, tmp_path: Path) -> None:
    commands = looking(lab, tmp_path)
    shutil.copytree(lab.path, small_disk / "home", symlinks=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for command in commands:
        code, said = say(*command, "--home", small_disk / "home")
        assert code == 0, f"{command}: {said}"
    assert "0.1" in (tmp_path / "reports" / "many" / "tiny" / "report.md").read_text()
    for command in (["run", str(MANY), "--plain"], ["retry", "--failed"], ["reindex"], ["forget", "many"]):
        code, said = say(*command, "--home", small_disk / "home")
        assert code == 2 and "cannot be written" in said and "Read-only file system" in said, f"{command}: {said}"


def test_a_full_disk(lab: Lab, small_disk: Path, say: Say, tmp_path: Path) -> None:
    commands = looking(lab, tmp_path)
    home = small_disk / "home"
    shutil.copytree(lab.path, home, symlinks=True)
    (home / "references").mkdir()
    (home / "references" / "cache.npz").write_bytes(b"\0" * 300_000)
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"\0" * 65536):
            pass
    for command in commands:
        code, said = say(*command, "--home", home)
        assert code == 0, f"{command}: {said}"
    for command in (["run", str(MANY), "--plain"], ["reindex"]):
        code, said = say(*command, "--home", home)
        assert code == 2 and f"the disk of {home} is full (0 MB free)" in said and "star-exp gc" in said, said
    for command in (
        ["report", str(MANY), "--out", str(small_disk / "r")],
        ["export", str(MANY), "--to", str(small_disk / "b")],
    ):
        code, said = say(*command, "--home", home)
        assert code == 2 and "cannot be written: No space left on device" in said, said
    assert say("gc", "--delete", "--home", home)[0] == 0 and not (home / "references" / "cache.npz").exists()
    assert not [path for path in home.iterdir() if path.name.startswith(".")], "nothing half written stays"


def test_readers_leave_nothing_behind(lab: Lab, say: Say, tmp_path: Path) -> None:
    commands = looking(lab, tmp_path)
    before = content(lab.path)
    for command in commands:
        assert say(*command, "--home", lab.path)[0] == 0
    assert content(lab.path) == before


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", 'it\'s "here"', "new\nline", "semi;colon & ünï"])
def test_a_home_of_any_legal_name(lab: Lab, name: str, tmp_path: Path) -> None:
    """The ledger, MLflow's database and its files are in the home, and nowhere else."""
    home = tmp_path / "odd" / name
    home.parent.mkdir()
    shutil.copytree(lab.path, home, symlinks=True)
    (home / "mlflow.sqlite").unlink()
    shutil.rmtree(home / "mlartifacts")
    for command in (["reindex"], ["run", str(MANY), "--plain", "--out", str(tmp_path / "out")], ["status"]):
        done = light(*command, home=home)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in home.parent.iterdir()] == [name]
    assert (home / "mlflow.sqlite").is_file() and any((home / "mlartifacts").rglob("spec.yaml"))


def test_a_copied_home_writes_nothing_into_its_original(finished: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    shutil.copytree(finished, original, symlinks=True)
    with sqlite3.connect(original / "mlflow.sqlite") as database:  # as it would be after a move
        assert Tracker(url_of(original / "mlflow.sqlite"), original / "mlartifacts").experiment
        places = [row[0] for row in database.execute("select artifact_uri from runs")]
    database.close()
    assert all(place.startswith(original.as_uri()) for place in places)
    copy = tmp_path / "copy"
    shutil.copytree(original, copy, symlinks=True)
    before = content(original)
    more = ["run", str(MANY), "--plain", "--name", "more", "--set", "optim.steps=3", "--out", str(tmp_path / "out")]
    done = light(*more, home=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert content(original) == before
    shutil.rmtree(original)
    done = light("report", str(MANY), "--out", str(tmp_path / "out"), home=copy)
    assert done.returncode == 0 and "not tracked" not in (tmp_path / "out" / "many" / "tiny" / "report.md").read_text()


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def changed(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute(statement)
        database.close()

    return change


LEDGER = {
    "half": halved,
    "garbage": garbage,
    "a folder": folder,
    "version lost": changed("delete from alembic_version"),
    "a table lost": changed("drop table runs"),
}


@pytest.mark.parametrize("damage", LEDGER)
def test_a_damaged_ledger_names_its_remedy_which_works(damage: str, lab: Lab, say: Say, tmp_path: Path) -> None:
    LEDGER[damage](lab.path / "ledger.sqlite")
    for command in (["status"], ["report", str(MANY), "--out", str(tmp_path)], ["run", str(MANY), "--plain"]):
        code, said = say(*command, "--home", lab.path)
        assert (
            code == 2 and f"the ledger {lab.path}/ledger.sqlite is damaged (" in said and "`star-exp reindex`" in said
        ), said
    code, said = say("reindex", "--home", lab.path)
    assert code == 0 and "put aside as" in said and list((lab.path / "aside").glob("ledger.sqlite.*"))
    code, said = say("status", "--home", lab.path)
    assert code == 0 and "many" in said


@pytest.mark.parametrize("name", ["ledger.sqlite", "mlflow.sqlite"])
def test_a_database_that_is_only_locked_is_never_put_aside(
    name: str, lab: Lab, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds it is at work on it."""
    monkeypatch.setattr(sqlite_file, "TIMEOUT", 0.1)
    changed("pragma journal_mode=delete")(lab.path / name)
    held = sqlite3.connect(lab.path / name, isolation_level=None)
    held.execute("begin exclusive")
    try:
        code, said = say("reindex", "--mlflow", "--home", lab.path)
    finally:
        held.close()
    assert code == 2 and "locked" in said and "damaged" not in said, said
    assert (lab.path / name).is_file() and not list(lab.path.glob("aside/*"))


def test_a_ledger_of_another_version_is_left_alone(lab: Lab, say: Say) -> None:
    changed("update alembic_version set version_num = 'fe11'")(lab.path / "ledger.sqlite")
    for command in (["status"], ["reindex"], ["run", str(MANY), "--plain"]):
        code, said = say(*command, "--home", lab.path)
        assert code == 2 and "was written by a newer star" in said and "star-exp reindex" in said, said


TRACKING = {
    "half": halved,
    "garbage": garbage,
    "empty": lambda path: path.write_bytes(b""),
    "a folder": folder,
    "another version": changed("update alembic_version set version_num = 'ffffffffffff'"),
    "a table lost": changed("drop table runs"),
}


@pytest.mark.parametrize("damage", TRACKING)
def test_a_damaged_mlflow_database_names_its_remedy_which_works(
    damage: str, lab: Lab, say: Say, tmp_path: Path
) -> None:
    TRACKING[damage](lab.path / "mlflow.sqlite")
    assert say("status", "--home", lab.path)[0] == 0
    for command in (["report", str(MANY)], ["run", str(MANY), "--plain"]):
        code, said = say(*command, "--home", lab.path, "--out", tmp_path / "out")
        assert code == 2 and f"MLflow's database {lab.path}/mlflow.sqlite" in said, said
        assert "`star-exp reindex --mlflow`" in said
    code, said = say("reindex", "--mlflow", "--home", lab.path)
    assert code == 0 and "put aside as" in said, said
    code, said = say("report", str(MANY), "--home", lab.path, "--out", tmp_path / "out")
    assert code == 0 and "warning" not in said


@pytest.mark.parametrize("what", ["experiment", "run"])
def test_what_was_deleted_in_mlflows_pages_is_missed_and_restored(
    what: str, lab: Lab, say: Say, tmp_path: Path
) -> None:
    client = MlflowClient(url_of(lab.path / "mlflow.sqlite"))
    experiment = client.get_experiment_by_name(MLFLOW_EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    if what == "experiment":
        client.delete_experiment(experiment.experiment_id)
    else:
        client.delete_run(runs[0].info.run_id)
    code, said = say("report", str(MANY), "--home", lab.path, "--out", tmp_path)
    assert (
        code == 0
        and f"{len(runs) if what == 'experiment' else 1} of {len(runs)} runs are done, and MLflow does not hold" in said
    )
    done = light("run", str(MANY), "--plain", "--out", tmp_path, home=lab.path)
    assert done.returncode == 0 and "was deleted there; it is restored" in done.stderr
    code, said = say("report", str(MANY), "--home", lab.path, "--out", tmp_path)
    assert code == 0 and "warning" not in said


def test_without_a_report_the_exit_code_is_not_zero(lab: Lab, tmp_path: Path) -> None:
    """A line of metrics that is damaged cannot be carried, so the table would lack it."""
    job = next(lab.path.glob("jobs/train-*"))
    shutil.rmtree(lab.path / "mlartifacts")
    (lab.path / "mlflow.sqlite").unlink()
    with (job / "metrics.jsonl").open("a") as file:
        file.write("{half\n")
    done = light("run", str(MANY), "--plain", "--out", tmp_path / "out", home=lab.path)
    assert done.returncode == 1 and not list((tmp_path / "out").rglob("report.md"))
    assert f"{job}/metrics.jsonl: is damaged" in done.stderr and "no report was written" in done.stderr


@pytest.mark.parametrize("text", ["{", "[1]", "{}", ""])
def test_a_damaged_home_file_is_made_anew(text: str, lab: Lab, say: Say) -> None:
    before = Home(lab.path).identity()
    (lab.path / "home.json").write_text(text)
    code, said = say("retry", "--failed", "--home", lab.path)
    assert code in (0, 2) and "belongs to" not in said
    assert Home(lab.path).identity() == before


def test_the_reader_of_the_output_leaves(lab: Lab) -> None:
    """`run | head -1` stops as after Ctrl-C, and its workers too."""
    line = [sys.executable, "-m", "tests.light.cli", "run", str(MANY), "--plain", "--name", "piped"]
    line += ["--home", str(lab.path), "--set", "optim.steps=7"]
    slow = {**os.environ, "LIGHT_STEPS": "1000", "LIGHT_SECONDS": "0.01"}
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=slow)
    assert running.stdout is not None and running.stderr is not None
    assert "piped" in running.stdout.readline()
    running.stdout.close()
    assert running.wait(timeout=100) == 130 and "Traceback" not in running.stderr.read()
    assert not list(lab.ledger.jobs.of_state("running"))


@pytest.mark.parametrize("command", ["--help", "status"])
def test_output_on_a_full_device(command: str, lab: Lab) -> None:
    line = [sys.executable, "-m", "star.cli", command, *([] if command == "--help" else ["--home", str(lab.path)])]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: no space is left"), done.stderr
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *line], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and not done.stderr


PLACES = [
    (["status", "--home", "FILE"], "is a file; give a folder"),
    (["status", "--home", "x" * 300], "File name too long"),
    (["run", str(MANY), "--plain", "--out", "FILE"], "is a file; give a folder"),
    (["run", str(MANY), "--plain", "--name", "x" * 240], "--name x"),
    (["plan", str(MANY), "--profile", "x" * 300], "--profile: there is no profile 'xxx"),
    (["export", str(MANY), "--to", "FOLDER"], "is a folder; name the file to write"),
    (["export", str(MANY), "--to", "FILE/x.tar.gz"], "cannot be written"),
    (["export", str(MANY), "--to", "FIFO"], "is no regular file"),
    (["export", str(MANY), "--to", "FOLDER/x.zip"], "give a name that ends in .tar.gz"),
    (["export", str(MANY), "--to", "FILE"], "file: is there already, and is no bundle; name another file"),
    (["export", str(MANY), "--to", "~nobody-of-that-name/x.tar.gz"], "there is no user of that name"),
    (["status", "--home", "~nobody-of-that-name/x"], "there is no user of that name"),
    (["report", str(MANY), "--out", "REPORT"], "report.md: is a folder; name the file to write"),
    (["reindex", "--home", "FOLDER/none"], "is not there; name the folder that holds jobs/"),
]


@pytest.mark.parametrize("command, message", PLACES, ids=lambda value: str(value)[:40])
def test_places_that_cannot_be(command: list[str], message: str, lab: Lab, say: Say, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "r" / "many" / "tiny" / "report.md").mkdir(parents=True)
    for name, place in (("FILE", "file"), ("FOLDER", ""), ("FIFO", "fifo"), ("REPORT", "r")):
        command = [part.replace(name, str(tmp_path / place)) for part in command]
    home = [] if "--home" in command else ["--home", str(lab.path)]
    code, said = say(*command, *home)
    assert code == 2 and message in said, said


@pytest.mark.parametrize("uri", ["ftp://x", "nonsense", "file:///tmp/x", "sqlite:////nowhere/x.db"])
def test_addresses_of_no_tracking_store(uri: str, lab: Lab, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for command in (["report", str(MANY)], ["run", str(MANY), "--plain"]):
        code, said = say(*command, "--home", lab.path)
        assert code == 2 and said.startswith("error: MLFLOW_TRACKING_URI: "), said


def test_a_tilde_that_no_shell_has_filled_in(
    lab: Lab, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, said = say("export", str(MANY), "--to=~/x.tar.gz", "--home", str(lab.path))
    assert code == 0 and (tmp_path / "x.tar.gz").is_file() and not (tmp_path / "~").exists(), said
    monkeypatch.setenv("STAR_HOME", "~/home")
    code, said = say("import", "~/x.tar.gz")
    assert code == 0 and (tmp_path / "home" / "jobs").is_dir() and not (tmp_path / "~").exists(), said


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"metrics": {"accuracy": 0.'])
def test_a_damaged_result_is_none_and_is_computed_again(text: str, lab: Lab, say: Say, tmp_path: Path) -> None:
    (job,) = list(lab.path.glob("jobs/probe-*"))[:1]
    whole = json.loads((job / "result.json").read_text())["metrics"]
    (job / "result.json").write_text(text)
    for command in looking(lab, tmp_path):
        code, said = say(*command, "--home", lab.path)
        assert code in (0, 2) and "Traceback" not in said, (command, said)
    code, said = say("plan", str(MANY), "--home", lab.path)
    assert code == 0 and "its result.json is damaged" in said and "to do: 1 of 20 jobs" in said, said
    done = light("run", str(MANY), "--plain", "--out", tmp_path / "out", home=lab.path)
    assert done.returncode == 0 and "1 jobs computed" in done.stdout.replace("1 job ", "1 jobs "), (
        done.stdout + done.stderr
    )
    assert json.loads((job / "result.json").read_text())["metrics"].keys() == whole.keys()


def test_damaged_studies_and_records_name_their_remedy(lab: Lab, say: Say) -> None:
    (lab.path / "studies.sqlite").write_bytes(b"garbage" * 99)
    code, said = say("search", ROOT / "tests" / "tiny_search.yaml", "--plain", "--home", lab.path)
    assert code == 2 and "studies.sqlite: the studies' database cannot be used" in said and "move it away" in said, said
    (record,) = lab.path.glob("experiments/many@*.json")
    garbage(record)
    code, said = say("report", "many", "--home", lab.path)
    assert code == 2 and f"{record}: is damaged; `star-exp run` of the experiment's file writes it again" in said, said
