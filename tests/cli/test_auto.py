"""`star-exp run --seeds auto` with real jobs: looks, seeds for the rows of open claims alone, budgets, kills, reports."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from star.rundir import Home, read_json
from star.scheduler.records import record_path
from tests.helpers import star_exp

SCRIPT = """
import argparse, json, pathlib, random, time
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--mean", type=float)
parser.add_argument("--seed", type=int)
args = parser.parse_args()
time.sleep({sleep})
value = args.mean + random.Random(f"{{args.seed}} {{args.mean}}").gauss(0, 1)
(args.out / "results.json").write_text(json.dumps({{"score": value}}))
"""
FILE = """
experiment: seeds
title: How many seeds
stages:
  fit:
    command: python draw.py --out {out} --mean {mean} --seed {seed}
    parameters: {mean: 0.0}
    results: [score]
rows:
  - {label: none, spec: {fit: {mean: 0.0}}}
  - {label: far, spec: {fit: {mean: 30.0}}}
  - {label: near, spec: {fit: {mean: 1.5}}}
  - {label: same, spec: {fit: {mean: 0.01}}}
seeds: [0, 1, 2]
looks: [3, 5, 8]
table:
  caption: Scores
  baseline: none
  columns: [{title: Row, label: true}, {title: Score, metric: fit/score, better: higher}]
claims:
  - {id: far, text: Far is higher, that: [{kind: greater, metric: fit/score, row: far, than: [none]}]}
  - {id: near, text: Near is higher, that: [{kind: greater, metric: fit/score, row: near, than: [none]}]}
  - {id: same, text: Same is higher, that: [{kind: greater, metric: fit/score, row: same, than: [none]}]}
"""


def write(folder: Path, sleep: float = 0.0) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "draw.py").write_text(SCRIPT.format(sleep=sleep))
    (folder / "seeds.yaml").write_text(FILE)
    return folder / "seeds.yaml"


def seeds_of(home: Path) -> dict[str, int]:
    """Row -> seeds in the home's record."""
    rows = [row["row"] for row in read_json(record_path(Home(home), "seeds", "none"))["rows"]]
    return {row: rows.count(row) for row in rows}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("auto")
    ran = star_exp("run", write(folder), "--plain", "--seeds", "auto", home=folder / "home", cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder, ran.stdout


def test_rows_of_open_claims_alone_get_more_seeds(done: tuple[Path, str]) -> None:
    folder, said = done
    counts = seeds_of(folder / "home")
    assert counts["far"] == 3, "decided at the first look"
    assert counts["same"] > 3 and counts["none"] == max(counts["near"], counts["same"])
    assert "look     1 of 3 (3 seeds): far: supported" in said
    assert re.search(r"seeds    \d+ more runs for none \(3 to 5\)", said) and "extended by" in said
    claims = {
        one["id"]: one for one in json.loads((folder / "home/reports/seeds/none/claims.json").read_text())["claims"]
    }
    assert claims["far"]["look"] == {"number": 1, "of": 3, "seeds": 3, "level": pytest.approx(0.97514, abs=1e-5)}
    assert claims["same"]["verdict"] == "undecided"
    report = (folder / "home/reports/seeds/none/report.md").read_text()
    assert "look 1 of 3, 3 seeds" in report and "at 97.5%" in report and "would decide same:" in report
    assert f"over n = 3 to {counts['none']} seeds" in report


def test_the_same_command_again_changes_nothing_and_other_commands_know_the_seeds(done: tuple[Path, str]) -> None:
    folder, _ = done
    counts, home = seeds_of(folder / "home"), folder / "home"
    before = (home / "reports/seeds/none/report.md").read_bytes()
    again = star_exp("run", folder / "seeds.yaml", "--plain", "--seeds", "auto", home=home, cwd=folder)
    assert again.returncode == 0 and "nothing was left to compute" in again.stdout
    plain = star_exp("run", folder / "seeds.yaml", "--plain", home=home, cwd=folder)
    assert plain.returncode == 0 and "left out" not in plain.stdout and seeds_of(home) == counts
    for asked in (folder / "seeds.yaml", Path("seeds")):
        assert star_exp("report", asked, home=home, cwd=folder).returncode == 0
        assert (home / "reports/seeds/none/report.md").read_bytes() == before
    told = star_exp("claims", folder / "seeds.yaml", "--plan", home=home, cwd=folder)
    assert "would decide same:" in told.stdout and "far" not in told.stdout.partition("would decide")[2]
    found = json.loads(star_exp("claims", "seeds", "--plan", "--json", home=home, cwd=folder).stdout)["seeds@none"]
    (rest,) = [one for one in found["would_decide"] if one["claim"] == "same"]
    assert set(rest["rows"]) == {"none", "same"} and rest["rows"]["same"]["has"] == counts["same"]


def test_a_fixed_number_of_seeds_after_that_is_told(done: tuple[Path, str], tmp_path: Path) -> None:
    import shutil

    folder, _ = done
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    folder = tmp_path / "copy"
    back = star_exp("run", folder / "seeds.yaml", "--plain", "--seeds", "0,1,2", home=folder / "home", cwd=folder)
    assert back.returncode == 0, back.stderr
    assert seeds_of(folder / "home") == dict.fromkeys(("none", "far", "near", "same"), 3)
    shown = star_exp("claims", folder / "seeds.yaml", home=folder / "home", cwd=folder).stdout
    assert "Changed after there were results: seeds: added while claims are open became a fixed number, on" in shown


def test_a_budget_ends_it_and_claims_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file, home = write(tmp_path), tmp_path / "home"
    early = star_exp("run", file, "--plain", "--seeds", "auto", "--budget-hours", "0", home=home, cwd=tmp_path)
    assert (
        early.returncode == 2 and "--budget-hours 0: 0 device hours are spent, and what is left before" in early.stderr
    )
    assert not (home / "jobs").exists() or not list((home / "jobs").iterdir())
    first = star_exp("run", file, "--plain", home=home, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    ran = star_exp("run", file, "--plain", "--seeds", "auto", "--budget-hours", "0", home=home, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "budget   0 device hours" in ran.stdout and "no more seeds for" in ran.stdout
    assert set(seeds_of(home).values()) == {3}
    more = star_exp("run", file, "--plain", "--seeds", "auto", "--budget-hours", "5", home=home, cwd=tmp_path)
    assert more.returncode == 0 and "that are left" in more.stdout and max(seeds_of(home).values()) > 3


def test_killed_it_goes_on_at_the_look_that_it_had_reached(tmp_path: Path) -> None:
    file, home = write(tmp_path, sleep=0.3), tmp_path / "home"
    command = [sys.executable, "-m", "star.cli", "run", str(file), "--plain", "--seeds", "auto", "--home", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("seeds "):
            break
    deadline = time.monotonic() + 60
    while max(seeds_of(home).values()) == 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = seeds_of(home)
    assert max(half.values()) == 5
    done = star_exp("run", file, "--plain", "--seeds", "auto", home=home, cwd=tmp_path)
    assert done.returncode == 0 and "left out" not in done.stdout, done.stdout + done.stderr
    assert all(count >= half[row] for row, count in seeds_of(home).items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget-hours", "2"], "--budget-hours 2: is for --seeds auto"),
        (["--seeds", "automatic"], "--seeds automatic: give different whole numbers"),
        (["--seeds", "auto", "--rows", "far"], "--rows far: --seeds auto chooses the rows itself"),
        (["--seeds", "auto", "--budget-hours", "nan"], "nan is not a number from 0 on"),
    ],
)
def test_mistakes(options: list[str], message: str, tmp_path: Path) -> None:
    done = star_exp("run", write(tmp_path), "--plain", *options, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_file_without_claims_has_nothing_to_decide(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(FILE.partition("claims:")[0])
    done = star_exp("run", file, "--plain", "--seeds", "auto", home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 2 and "declares no claims, so nothing says when seeds are enough" in done.stderr
    file.write_text(FILE.replace("[3, 5, 8]", "[3, 8, 5]"))
    done = star_exp("run", file, "--plain", "--seeds", "auto", home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 2 and "seeds.yaml:15: looks: numbers of seeds rise" in done.stderr
