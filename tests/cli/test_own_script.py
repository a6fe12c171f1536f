"""Commands of the user's own as stages, with real scripts on real images: run, reported, resumed, moved, searched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from star.rundir import Home, JobDir, read_json
from tests.cli.conftest import copy_of
from tests.helpers import DATA, ROOT, star_exp
from tests.scheduler.lab import Lab

SCRIPTS = ROOT / "tests" / "scripts"


def files(folder: Path, *changes: tuple[str, str], name: str = "classifier.yaml") -> Path:
    """The scripts in a folder of their own, with the data by its path; some texts of the YAML replaced."""
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / name).read_text().replace("../../runs/data/fashion-mnist", str(DATA))
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


def plan(file: Path, home: Path, *options: str) -> list[dict[str, str]]:
    done = star_exp("plan", file, "--json", *options, home=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["jobs"]


def keys(file: Path, home: Path, *options: str) -> dict[str, list[str]]:
    """Stage -> its keys."""
    found: dict[str, list[str]] = {}
    for job in plan(file, home, *options):
        found.setdefault(job["stage"], []).append(job["key"])
    return found


def texts(reports: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (reports / "classifier" / "none").iterdir()}


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, and a home in which their experiment was run."""
    folder = tmp_path_factory.mktemp("scripts")
    file = files(folder / "mine")
    ran = star_exp("run", file, "--plain", home=folder / "home", cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all done: 8 jobs computed" in ran.stdout
    return folder


def test_it_is_a_table_with_intervals_a_figure_and_a_verdict(done: Path) -> None:
    reports = done / "home" / "reports" / "classifier" / "none"
    text = (reports / "report.md").read_text()
    assert "| Width | Accuracy %↑ | Loss↓ | Norm |" in text and "Minus narrow" in text and "Stages: fit, weigh." in text
    assert "n = 2 seeds (0, 1)" in text and "wider" in text
    assert (reports / "loss.png").stat().st_size > 1000
    cells = json.loads((reports / "provenance.json").read_text())["cells"]
    accuracies = [source["value"] for cell in cells if cell["column"] == "Accuracy %" for source in cell["sources"]]
    assert len(accuracies) == 4 and all(0.5 < value < 0.9 for value in accuracies), accuracies
    curves = (reports / "curves.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in curves[1:]] == [
        ["fit/loss", label, step] for label in ("narrow", "wide") for step in ("1", "2")
    ]
    shown = star_exp("status", home=done / "home").stdout
    assert "accuracy 0." in shown and "norm " in shown


def test_the_same_command_again_computes_nothing(done: Path) -> None:
    again = star_exp("run", done / "mine" / "classifier.yaml", "--plain", home=done / "home", cwd=done)
    assert again.returncode == 0 and "8 jobs, 0 to do" in again.stdout


def test_keys_are_of_contents(done: Path, tmp_path: Path) -> None:
    """Of the script's files and of the data, wherever they lie; of the command and its parameters; of nothing else."""
    home = tmp_path / "home"
    before = keys(done / "mine" / "classifier.yaml", home)
    moved = files(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "README").write_text("nothing that it runs")
    assert keys(moved, home) == before
    assert keys(moved, home, "--set", "resources.fit.threads=2") == before, "resources are part of no key"
    assert keys(moved, home, "--set", "fit.lr=0.2")["fit"] != before["fit"]
    for name in ("layers.py", "train.py"):
        folder = tmp_path / name
        file = files(folder)
        (folder / name).write_text((folder / name).read_text() + "\n")
        assert set(keys(file, home)["fit"]).isdisjoint(before["fit"]), "its own file, and one that it imports"
    only = files(tmp_path / "weigh")
    (only.parent / "weigh.py").write_text((only.parent / "weigh.py").read_text() + "\n")
    assert keys(only, home)["fit"] == before["fit"] and set(keys(only, home)["weigh"]).isdisjoint(before["weigh"])
    data = tmp_path / "data"
    shutil.copytree(DATA, data)
    changed = files(tmp_path / "data-too", (str(DATA), str(data)))
    assert keys(changed, home) == before, "the same images in another place"
    labels = data / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[8] = (content[8] + 1) % 10
    labels.write_bytes(content)
    assert set(keys(changed, home)["fit"]).isdisjoint(before["fit"]), "one label of them"


def test_a_parameter_at_its_neutral_value_is_as_if_it_were_not_there(done: Path, tmp_path: Path) -> None:
    home, line = tmp_path / "home", "--lr {lr} --width {width} --epochs {epochs}"
    before = keys(files(tmp_path / "a", (line, "{parameters}"), ("images", "folder")), home)
    more = "      epochs: 2\n      images: {default: 2000, neutral: 2000}\n"
    file = files(tmp_path / "b", (line, "{parameters}"), ("images", "folder"), ("      epochs: 2\n", more))
    assert keys(file, home) == before
    assert set(keys(file, home, "--set", "fit.images=1000")["fit"]).isdisjoint(before["fit"])


def test_a_sweep_and_axes(done: Path) -> None:
    file = done / "mine" / "classifier.yaml"
    swept = plan(file, done / "home", "--set", "fit.lr=[0.05,0.1]", "--seeds", "0")
    assert [job["stage"] for job in swept].count("fit") == 4
    assert [job["action"] for job in swept if job["stage"] == "fit"].count("reuse") == 2, "those at 0.1 are there"


def at_work(folder: Path, epochs: int = 6) -> tuple[Path, Path, subprocess.Popen[bytes], JobDir]:
    """A run of one slow training, and the folder of its job once that has reached its third epoch."""
    file = files(folder / "mine", ("epochs: 2", f"epochs: {epochs}"))
    line = [sys.executable, "-m", "star.cli", "run", str(file), "--plain", "--rows", "narrow", "--seeds", "0"]
    environment = os.environ | {"SLOW": "0.5", "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        [*line, "--home", str(folder / "home")],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    job = None
    deadline = time.monotonic() + 200
    while job is None or not job.metrics.exists() or len(job.metrics.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
        job = next((JobDir(path) for path in (folder / "home" / "jobs").glob("fit-*")), None)
    return file, folder / "home", running, job


def weights(folder: Path) -> dict[str, np.ndarray]:
    (job,) = (path for path in (folder / "jobs").glob("fit-*"))
    with np.load(job / "out" / "weights.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = files(folder / "mine", ("epochs: 2", "epochs: 6"))
    ran = star_exp("run", file, "--plain", "--rows", "narrow", "--seeds", "0", home=folder / "home", cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "home"


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_one_that_was_killed_or_stopped_goes_on_from_its_checkpoint(
    undisturbed: Path, tmp_path: Path, how: str
) -> None:
    """With the same weights in the end, bit for bit; a worker that is killed leaves no script behind."""
    file, home, running, job = at_work(tmp_path)
    if how == "kill":
        os.killpg(running.pid, 9)
        for worker in scripts_of(job):
            worker.parent().kill()
    else:
        running.terminate()
    running.wait(timeout=200)
    deadline = time.monotonic() + 60
    while scripts_of(job):
        assert time.monotonic() < deadline, "the script outlives its worker"
        time.sleep(0.05)
    if how == "stop":
        failure = read_json(job.failure)
        assert failure["class"] == "Stopped" and failure["message"] == "it goes on from its last checkpoint"
    again = star_exp("run", file, "--plain", "--rows", "narrow", "--seeds", "0", home=home, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on after epoch" in job.log.read_text()
    steps = [json.loads(line)["step"] for line in job.metrics.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    for name, value in weights(undisturbed).items():
        np.testing.assert_array_equal(weights(home)[name], value)


def scripts_of(job: JobDir) -> list[object]:
    """Processes of a job's script."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(word.endswith("train.py") for word in line) and str(job.scratch) in line:
            found.append(process)
    return found


def test_a_colleague_has_the_same_bytes_and_the_script(done: Path, tmp_path: Path) -> None:
    lab = copy_of(done / "home", tmp_path / "copy")
    before = texts(lab.path / "reports")
    bundle, there = tmp_path / "classifier.tar.gz", tmp_path / "there"
    assert star_exp("export", "classifier", "--to", bundle, home=lab.path).returncode == 0
    shutil.rmtree(lab.path)
    taken = star_exp("import", bundle, home=there, cwd=tmp_path)
    assert taken.returncode == 0, taken.stderr
    assert texts(there / "reports") == before
    shutil.rmtree(there / "reports")
    assert star_exp("report", "classifier", home=there, cwd=tmp_path).returncode == 0
    assert texts(there / "reports") == before
    written = there / "experiments" / "classifier@none" / "classifier.yaml"
    assert (written.parent / "layers.py").read_bytes() == (SCRIPTS / "layers.py").read_bytes()
    assert {job["action"] for job in plan(written, there)} == {"reuse"}


def test_the_ledger_is_made_anew_and_what_depends_is_run_again(done: Path, tmp_path: Path) -> None:
    lab = copy_of(done / "home", tmp_path)
    before = texts(lab.path / "reports")
    for name in ("ledger.sqlite", "mlflow.sqlite"):
        (lab.path / name).unlink()
    assert star_exp("reindex", home=lab.path).returncode == 0
    assert star_exp("report", "classifier", home=lab.path).returncode == 0
    assert texts(lab.path / "reports") == before
    fit = next(job.key for job in lab.ledger.jobs.of().values() if job.stage == "fit")
    asked = star_exp("rerun", fit, home=lab.path)
    assert asked.returncode == 0, asked.stderr
    queued = [job.stage for job in lab.ledger.jobs.of().values() if job.state == "queued"]
    assert sorted(queued) == ["fit", "weigh"], "what was made from it too"
    assert "nothing to remove" in star_exp("gc", home=lab.path).stdout


def test_a_search_ends_trials_early_and_goes_on_from_them(images: Path, tmp_path: Path) -> None:
    file = files(tmp_path / "mine", name="search.yaml")
    ran = star_exp("search", file, "--plain", home=tmp_path / "home", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "ended early" in ran.stdout and "repeating trial 0" in ran.stdout
    jobs = [JobDir(path) for path in (tmp_path / "home" / "jobs").glob("fit-*")]
    lengths = [read_json(job.job)["spec"]["fit"]["epochs"] for job in jobs]
    assert lengths.count(1) == 6 and 2 <= lengths.count(2) < 6, (
        "all trials are compared after an epoch, the better after two"
    )
    for job in jobs:
        epochs, seed = (read_json(job.job)["spec"][name] for name in ("fit", "seed"))
        gone_on = f"going on after epoch {epochs['epochs'] // 2}" in job.log.read_text()
        assert gone_on == (epochs["epochs"] > 1 and seed == 0), "those of the repetition begin at the beginning"
    best = tmp_path / "home" / "reports" / "classifier_search" / "none" / "best.yaml"
    assert {job["action"] for job in plan(best, tmp_path / "home")} == {"reuse"}


def test_a_metric_of_ours_beside_the_platforms_stages(home: Path, tmp_path: Path) -> None:
    """Of generated images, by a script: no other stage's key changes."""
    text = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    (tmp_path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(text))
    before = keys(tmp_path / "tiny.yaml", home)
    (tmp_path / "bright.py").write_text(
        "import json, sys, numpy as np\nimages = np.load(sys.argv[1] + '/images.npy')\n"
        "json.dump({'mean': float(images.mean()) / 255}, open(sys.argv[2] + '/results.json', 'w'))\n"
    )
    text["stages"] = {
        "bright": {"command": "python bright.py {generate} {out}", "after": ["generate"], "results": ["mean"]}
    }
    text["targets"] = ["score", "probe", "bright"]
    text["table"]["columns"].append({"title": "Brightness", "metric": "bright/mean"})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(text))
    after = keys(tmp_path / "tiny.yaml", home)
    assert {stage: after[stage] for stage in before} == before and len(after["bright"]) == 2
    lab = Lab.__new__(Lab)
    lab.path, lab.said = home, []
    ran = star_exp("run", tmp_path / "tiny.yaml", "--plain", home=home, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for path in Home(home).jobs.glob("bright-*"):
        given = read_json(path / "job.json")["inputs"]["generate"]
        images = np.load(Path(given) / "out" / "images.npy")
        assert read_json(path / "result.json")["metrics"]["mean"] == pytest.approx(images.mean() / 255)
