"""The command line as a user meets it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from star.cli.groups import GROUPS
from star.cli.main import cli
from star.cli.view import View
from star.ledger.states import Allocation, NewJob
from star.ledger.store import open_ledger
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.spec.load import load
from tests.helpers import ROOT, TINY, star_exp


def test_a_failed_job_is_reported_and_the_rest_goes_on(home: Path) -> None:
    """One of two trainings diverges: the other's table row is there, the exit code is 1, and status says why."""
    bad = home / "bad.yaml"
    text = (
        TINY.read_text()
        .replace("selfguided.mask_ratio: [0.25, 0.5]", "optim.lr: [0.1, 1.0e+30]")
        .replace("match: {mask_ratio: selfguided.mask_ratio}", "")
    )
    bad.write_text(text)
    (home / "profiles").symlink_to(TINY.parent / "profiles")
    done = star_exp("run", bad, "--plain", "--set", "optim.steps=20", home=home, cwd=home)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DivergedError: after step 5 loss is nan" in done.stderr and "Traceback" not in done.stderr
    assert "(train failed)" in (home / "reports" / "tiny" / "tiny" / "report.md").read_text()
    status = star_exp("status", home=home).stdout
    assert "1 of 2 runs done" in status and "lower optim.lr" in status

    key = next(line.split()[2] for line in status.splitlines() if line.startswith("failed"))
    shown = json.loads(star_exp("show", key[:8], "--json", home=home).stdout)
    assert shown["error_class"] == "DivergedError" and shown["history"][-1]["state"] == "failed"
    logs = star_exp("logs", key, home=home).stdout
    assert "loss is nan" in logs and f"== train {key}" in logs
    machine = json.loads(star_exp("status", "--json", home=home).stdout)
    assert [row["state"] for row in machine["rows"]] == ["done", "failed"]
    run = machine["rows"][0]["run"]
    assert json.loads(star_exp("show", run, "--json", home=home).stdout)["spec"]["optim"]["lr"] == 0.1


@pytest.mark.parametrize(
    "command, says",
    [
        (["plan", TINY, "--seeds", "0", "--seeds", "1"], "--seeds is given twice; keep one"),
        (["weights", "fetch", "inception", "--home", "a", "--home", "b"], "--home is given twice; keep one"),
        (["watch", "one", "--experiment", "two"], "both name what to watch; keep one"),
        (["verify", TINY, "--tolerance", "0.1"], "--tolerance 0.1: is for runs that are computed again"),
        (["import", TINY.parent], "is a folder; give the file that `star-exp export` wrote"),
        (["plan", TINY, "--set", "seeds=3"], "--set seeds=3: seeds are no field of a run; give --seeds 3"),
        (["plan", TINY, "--set", "base.optim.lr=1"], "give the path within `base`: optim.lr=1"),
    ],
)
def test_what_would_be_ignored_is_refused(command: list[str | Path], says: str, home: Path) -> None:
    done = star_exp(*command, home=None if "--home" in command else home)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_the_plan_says_what_is_shared_and_done(home: Path) -> None:
    done = star_exp("plan", TINY, "--json", home=home)
    plan = json.loads(done.stdout)
    actions = {job["stage"]: job["action"] for job in plan["jobs"]}
    assert actions == {
        "dataset": "reuse",
        "tokenizer": "reuse",
        "encode": "reuse",
        "reference": "reuse",
    } | dict.fromkeys(("train", "generate", "score", "probe"), "run")
    assert plan["to_do"]["jobs"] == 8 and plan["to_do"]["flops"] > 1e9 and plan["to_do"]["seconds"] > 1
    text = star_exp("plan", TINY, home=home).stdout
    assert re.search(r"tokenizer +\w{16} +2 +reuse", text) and re.search(r"train +\w{16} +1 +run", text)
    assert "to do: 8 of 12 jobs" in text


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("published: table4", "published: table44", "'table44' is no published table (did you mean table4?)"),
        ("published: fid", "published: fidd", "'fidd' is no column of the published table4 (did you mean fid?)"),
        ("{mask_ratio: selfguided.mask_ratio}", "{ratio: selfguided.mask_ratio}", "'ratio' is no column"),
    ],
)
def test_published_values_are_looked_for_before_anything_runs(tmp_path: Path, old: str, new: str, says: str) -> None:
    (tmp_path / "profiles").symlink_to(TINY.parent / "profiles")
    (tmp_path / "mine.yaml").write_text(TINY.read_text().replace(old, new))
    done = star_exp("run", tmp_path / "mine.yaml", home=tmp_path / "home")
    assert done.returncode == 2 and says in done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: there is no such file."),
        (["plan", "table4"], "table4: there is no such file; did you mean experiments/table4.yaml?"),
        (["plan", "tabel4.yaml"], "tabel4.yaml: there is no such file; did you mean experiments/table4.yaml?"),
        (["run", "experiments/table4.yml"], "did you mean experiments/table4.yaml?"),
        (["search", "experiments/serach_probe_and_fd"], "did you mean experiments/search_probe_and_fd.yaml?"),
        (["run", str(TINY), "--profile", "tinny"], "did you mean tiny?"),
        (["run", str(TINY), "--seeds", "a"], "--seeds a: give different whole numbers"),
        (["run", str(TINY)], "run `star-exp data fetch fashion-mnist`"),
        (["plan", str(TINY), "--set", "optim.steps=0"], "optim.steps: 0 steps train nothing; give at least 1"),
        (["status"], "holds no runs yet"),
        (["show", "abc"], "holds no runs yet"),
        (["report", str(TINY)], "holds no runs yet"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = star_exp(*arguments, home=tmp_path / "home")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and says in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "home" / "jobs").exists()


def test_a_search_without_its_data_begins_no_trial(tmp_path: Path) -> None:
    done = star_exp("search", "experiments/search_probe_and_fd.yaml", "--plain", home=tmp_path / "home")
    assert done.returncode == 2 and "run `star-exp data fetch fashion-mnist`" in done.stderr
    assert "trial" not in done.stdout and not (tmp_path / "home" / "jobs").exists()


def test_status_and_help_import_nothing_heavy() -> None:
    heavy = {"torch", "mlflow", "pandas", "numpy", "pydantic", "matplotlib"}
    for module in ("star.cli.main", "star.cli.status"):
        code = f"import sys, {module}; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert not heavy & set(loaded), module


def test_the_live_view_shows_every_run_and_stage(home: Path) -> None:
    ledger = open_ledger(Home(home))
    plan = make_plan(load(TINY), Home(home), ledger)
    ledger.jobs.add([NewJob(job.key, job.stage, job.label, 0) for job in plan.to_do])
    train = next(job for job in plan.to_do if job.stage == "train")
    ledger.jobs.claim(ledger.jobs.of()[train.key], "me", "started", Allocation("here", 1))
    folder = Home(home).job("train", train.key)
    folder.path.mkdir()
    folder.progress.write_text(json.dumps({"done": 10, "total": 30, "rate": 2.0}))
    folder.metrics.write_text(json.dumps({"time": 0, "step": 10, "metrics": {"loss": 3.21}}) + "\n")
    console = Console(file=io.StringIO(), width=200)
    console.print(View(plan, Home(home), plain=True)._table(ledger.jobs.of(plan.jobs), room=50))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "10/30 loss 3.210 ETA 10 s" in text and "mask_ratio=0.5 · seed 0" in text and "reused" in text
    console.print(View(plan, Home(home), plain=True)._table(ledger.jobs.of(plan.jobs), room=1))
    short = console.file.getvalue().removeprefix(text)  # type: ignore[attr-defined]
    assert "10/30 loss 3.210" in short and "and 1 more; `star-exp status` lists all" in short


def test_a_letter_that_the_terminal_lacks_is_shown_by_its_number() -> None:
    code = "import sys, click; from star.cli.failures import guarded; sys.exit(guarded(lambda: click.echo('β=0.1')))"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stdout) == (0, b"\\u03b2=0.1\n"), done.stderr


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_takes_nothing_ends_no_run(home: Path) -> None:
    """The scheduler's own output may be on the disk that is full."""
    view = View(make_plan(load(TINY), Home(home), open_ledger(Home(home))), Home(home), plain=True)
    with contextlib.redirect_stdout(_Full()):
        view.say("a line")


def test_the_readme_names_only_what_is_there() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "design.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http"):
            assert (ROOT / link).exists() or (ROOT / "docs" / link).exists(), link


def test_the_plan_of_table_1_at_the_papers_scale(tmp_path: Path) -> None:
    """Each distinct run once, with what it costs on a named GPU; what is missing here is said, not stumbled over."""
    experiment = ["experiments/table1.yaml", "--profile", "imagenet256"]
    done = star_exp("plan", *experiment, home=tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "14 rows, 14 runs (14 distinct)" in lines[1]
    b = next(line for line in lines if line.lstrip().startswith("LlamaGen-B + ST-AR, 50 epochs"))
    assert "110.9 M parameters" in b and "27.24 EFLOP" in b and "19 GPU-hours" in b
    total = next(line for line in lines if line.startswith("to do: "))
    assert "GPU-hours on H200 at 40% of its 989 TFLOP/s (dense bf16)" in total and " on disk" in total
    assert sum(line.startswith("missing: ") for line in lines) == 4
    slower = star_exp("plan", *experiment, "--set", "resources.utilisation=0.2", "--json", home=tmp_path, cwd=ROOT)
    faster = star_exp("plan", *experiment, "--json", home=tmp_path, cwd=ROOT)
    hours = [sum(job["gpu_hours"] for job in json.loads(plan.stdout)["jobs"]) for plan in (slower, faster)]
    assert hours[0] == pytest.approx(2 * hours[1])


def test_files_that_score_needs_are_checked_before_anything_is_computed(home: Path) -> None:
    (home / "text.npz").write_text("no archive")
    moments = {"mu": np.zeros(64), "sigma": np.eye(64), "mu_s": np.zeros(64), "sigma_s": np.eye(64)}
    np.savez(home / "small.npz", arr_0=np.zeros((4, 28, 28, 3), dtype=np.uint8), **moments)
    cases = [
        (["score.extractor=inception"], "star-exp weights fetch inception"),
        (["score.extractor=inception", f"score.weights={home / 'text.npz'}"], "another network's FID is not FID"),
        ([f"score.reference={home / 'absent.npz'}"], "absent.npz is not there"),
        ([f"score.reference={home / 'text.npz'}"], "lacks mu, sigma, mu_s, sigma_s, arr_0"),
        ([f"score.reference={home / 'small.npz'}"], "has moments (mu) of shape (64,), and efficientnet-lite0 has 1280"),
    ]
    before = sorted((home / "jobs").iterdir())
    for sets, message in cases:
        options = [part for text in sets for part in ("--set", text)]
        done = star_exp("run", TINY, "--plain", *options, home=home, cwd=home)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert sorted((home / "jobs").iterdir()) == before
    # what never scores needs none of them
    probe = star_exp("plan", TINY.parent / "tiny_probe.yaml", "--set", "score.extractor=inception", home=home)
    assert probe.returncode == 0 and "missing" not in probe.stdout


def test_help_lists_each_command_once_in_a_line_that_fits() -> None:
    named = [name for lines in GROUPS.values() for name in lines]
    assert sorted(named) == sorted(cli.commands)
    shown = star_exp("--help").stdout
    assert all(f"  {name} " in shown for name in named) and max(map(len, shown.splitlines())) < 80


@pytest.mark.parametrize(
    "name, queues, limits, told",
    [
        ("local", False, (2, {}), "2 slots"),
        ("local", False, (8, {"GPU-1": 80}), "8 slots, 1 GPU"),
        ("slurm", True, None, "slurm"),
        ("ray", True, None, "ray"),
        ("ray", False, None, "ray of this command alone, which ends with it"),
    ],
)
def test_a_run_says_where_its_jobs_run(name: str, queues: bool, limits: object, told: str) -> None:
    from star.cli.run import _where

    assert _where(SimpleNamespace(name=name, queues=queues, limits=lambda: limits)) == told  # type: ignore[arg-type]
