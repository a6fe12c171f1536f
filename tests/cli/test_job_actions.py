"""The verbs as a user types them, on a home whose jobs only pretended to work."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from star.ledger.states import DONE, FAILED, QUEUED, NewJob
from star.rundir import Home, read_json
from star.scheduler import unpack
from tests.cli.conftest import light
from tests.helpers import ROOT, star_exp
from tests.scheduler.lab import MANY, Lab
from tests.services import until

FASHION = ROOT / "runs" / "data" / "fashion-mnist"


def table(reports: Path) -> str:
    return (reports / "many" / "tiny" / "report.md").read_text()


def test_diff_and_why(lab: Lab) -> None:
    plan = lab.plan()
    first, second = plan.runs[0].key, plan.runs[1].key
    shown = star_exp("diff", first[:8], second[:8], home=lab.path).stdout
    assert "selfguided.mask_ratio: 0.1 -> 0.2" in shown and "probe/accuracy" in shown
    found = json.loads(star_exp("diff", first, second, "--json", home=lab.path).stdout)
    assert found["spec"] == [{"path": "selfguided.mask_ratio", "old": 0.1, "new": 0.2}]
    assert found["results"]["probe/accuracy"] == [0.5, 0.5] and found["provenance"] == []
    mixed = star_exp("diff", first, plan.runs[0].stages["train"], home=lab.path)
    assert mixed.returncode == 2 and "give two runs, or two jobs of one stage" in mixed.stderr
    shown = star_exp("why", plan.runs[1].stages["score"], home=lab.path).stdout
    assert "first difference: train selfguided.mask_ratio: 0.1 -> 0.2" in shown or "0.3 -> 0.2" in shown
    reasons = json.loads(star_exp("why", second, "--json", home=lab.path).stdout)
    assert [one["stage"] for one in reasons][:3] == ["dataset", "tokenizer", "encode"]
    assert reasons[0]["nearest"] is None and reasons[3]["state"] == DONE


def test_the_ledger_and_mlflow_are_made_anew_from_the_folders(lab: Lab) -> None:
    plan = lab.plan()
    for path in lab.path.glob("ledger.sqlite*"):
        path.unlink()
    for path in lab.path.glob("mlflow.sqlite*"):
        path.unlink()
    shutil.rmtree(lab.home.job("probe", plan.runs[0].stages["probe"]).path)
    (lab.home.job("score", plan.runs[0].stages["score"]).job).write_text('{"half')
    done = star_exp("reindex", home=lab.path)
    assert done.returncode == 0 and "18 jobs in the folders, 18 of them new" in done.stdout, done.stdout + done.stderr
    assert "score-" in done.stderr and "cannot be read" in done.stderr
    assert {job.state for job in lab.ledger.jobs.of().values()} == {DONE} and len(lab.ledger.jobs.of()) == 18
    light("run", MANY, "--plain", "--out", lab.path / "again", home=lab.path)
    assert table(lab.path / "again") == table(lab.path / "reports")


def test_reindex_corrects_what_the_ledger_believes(lab: Lab) -> None:
    plan = lab.plan()
    shutil.rmtree(lab.home.job("probe", plan.runs[0].stages["probe"]).path)
    done = star_exp("reindex", home=lab.path)
    assert "1 state corrected" in done.stdout and lab.job(plan, "probe").state == QUEUED


def test_reindex_takes_the_records_that_it_can_read(lab: Lab) -> None:
    (lab.home.experiments / "broken@tiny.json").write_text('{"experiment": "bro')
    done = star_exp("reindex", home=lab.path)
    assert done.returncode == 0 and "broken@tiny.json is damaged" in done.stderr, done.stdout + done.stderr
    assert "1 experiment" in done.stdout


def test_a_bundle_makes_the_same_table_elsewhere(lab: Lab, tmp_path: Path) -> None:
    bundle = tmp_path / "many.tar.gz"
    done = star_exp("export", MANY, "--to", bundle, "--out", lab.path / "reports", home=lab.path)
    assert done.returncode == 0, done.stderr
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
    assert {
        "manifest.json",
        *(f"experiments/many@tiny{name}" for name in (".json", "/many.yaml", "/profiles/tiny.yaml")),
    } <= set(names)
    assert any(name.startswith("code/") and name.endswith("changes.diff") for name in names)
    assert any(name.endswith("environment.txt") for name in names) and not any("value.txt" in name for name in names)

    there = tmp_path / "there"
    done = star_exp("import", bundle, "--out", there / "reports", home=there / "home")
    assert done.returncode == 0 and "took in 20 jobs" in done.stdout, done.stdout + done.stderr
    assert table(there / "reports") == table(lab.path / "reports")
    (there / "home" / "data").mkdir()
    (there / "home" / "data" / "fashion-mnist").symlink_to(FASHION)
    assert star_exp("report", MANY, "--out", there / "new", home=there / "home").returncode == 0
    assert table(there / "new") == table(lab.path / "reports")
    plan = json.loads(star_exp("plan", MANY, "--json", home=there / "home").stdout)
    assert {job["action"] for job in plan["jobs"]} <= {"reuse", "not needed"}
    extended = star_exp("plan", MANY, "--seeds", "0,1", "--json", home=there / "home").stdout
    wanted = {job["stage"]: job["reason"] for job in json.loads(extended)["jobs"] if job["action"] == "run"}
    assert wanted["encode"] == "its output was removed, and is needed again"
    again = star_exp("import", bundle, "--out", there / "reports", home=there / "home")
    assert "took in 0 jobs; 20 were here already" in again.stdout


def test_a_bundle_of_more_takes_the_place_of_one_of_fewer(lab: Lab, tmp_path: Path) -> None:
    """Or `report` would go on writing the table without the new rows."""
    (tmp_path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    file = tmp_path / "many.yaml"
    file.write_text(MANY.read_text().replace("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2]"))
    small = Lab(tmp_path / "small").path
    done = light("run", file, "--plain", home=small)
    assert done.returncode == 0, done.stderr
    few, more, there = tmp_path / "few.tar.gz", tmp_path / "more.tar.gz", tmp_path / "there"
    assert star_exp("export", "many", "--to", few, home=small).returncode == 0
    assert star_exp("export", "many", "--to", more, home=lab.path).returncode == 0
    for bundle, warned in ((few, False), (more, False), (more, False), (few, True)):
        done = star_exp("import", bundle, home=there)
        assert done.returncode == 0 and ("rows or runs that the bundle lacks" in done.stderr) is warned, done.stderr
    assert star_exp("report", "many", home=there).returncode == 0
    assert [row in table(there / "reports") for row in ("| 0.2 |", "| 0.4 |")] == [True, True]
    assert "0.4" in (there / "experiments" / "many@tiny" / "many.yaml").read_text()
    key = next((there / "jobs").glob("probe-*"))
    (key / "result.json").unlink()
    assert "1 job of it had begun here and is not done" in star_exp("import", more, home=there).stderr


def test_gc_of_another_homes_ledger_is_refused(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Lab(tmp_path / "other")
    other.register(other.plan())
    monkeypatch.setenv("STAR_LEDGER_URL", f"sqlite:///{other.home.ledger}")
    done = star_exp("gc", "--delete", home=lab.path)
    assert done.returncode == 2 and "belongs to the home" in done.stderr
    assert len(list(lab.home.jobs.iterdir())) == 20


def test_a_job_that_begins_while_a_bundle_is_taken_in_stays(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, there, placed = tmp_path / "many.tar.gz", Home(tmp_path / "there"), unpack._place
    assert star_exp("export", MANY, "--to", bundle, home=lab.path).returncode == 0
    *_, last = sorted(path.name for path in lab.home.jobs.iterdir())

    def place(*given: Any) -> None:
        (there.jobs / last).mkdir(parents=True, exist_ok=True)
        (there.jobs / last / "job.json").write_text("{}")
        placed(*given)

    monkeypatch.setattr(unpack, "_place", place)
    taken = unpack.unpack(bundle, there, tmp_path / "reports")
    assert (taken.new, taken.there) == (19, 1) and (there.jobs / last / "job.json").read_text() == "{}"


def test_a_bundle_cannot_plant_code(lab: Lab, tmp_path: Path) -> None:
    """Its manifest agrees with itself, but the code is not the one whose name it bears."""
    bundle, bad = tmp_path / "many.tar.gz", tmp_path / "bad.tar.gz"
    assert star_exp("export", MANY, "--to", bundle, home=lab.path).returncode == 0
    with tarfile.open(bundle) as archive:
        contents = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}  # type: ignore[union-attr]
    worker = next(name for name in contents if name.endswith("star/worker.py"))
    contents[worker] += b"# planted\n"
    manifest = json.loads(contents["manifest.json"])
    manifest["files"][worker] = hashlib.sha256(contents[worker]).hexdigest()
    contents["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(bad, "w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    done = star_exp("import", bad, home=tmp_path / "there")
    assert done.returncode == 2 and "is not the code whose name it bears" in done.stderr
    assert not any((tmp_path / "there" / "code").glob("[!.]*"))


def test_a_bundle_that_was_changed_is_refused(lab: Lab, tmp_path: Path) -> None:
    bundle = tmp_path / "many.tar.gz"
    assert star_exp("export", MANY, "--to", bundle, "--weights", "all", home=lab.path).returncode == 0
    with tarfile.open(bundle) as archive:
        contents = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}  # type: ignore[union-attr]
    assert any(name.endswith("out/value.txt") for name in contents)
    result = next(name for name in contents if name.endswith("result.json"))
    changes = {
        "is damaged or missing": contents | {result: contents[result].replace(b"0.5", b"0.9")},
        "which its manifest does not name": contents | {"../outside.txt": b"x"},
        "is no bundle": {"something.txt": b"x"},
    }
    for says, files in changes.items():
        bad = tmp_path / "bad.tar.gz"
        with tarfile.open(bad, "w:gz") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        done = star_exp("import", bad, home=tmp_path / "bad-home")
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "outside.txt").exists() and not (tmp_path / "bad-home" / "jobs").exists()
    (tmp_path / "bad.tar.gz").write_bytes(bundle.read_bytes()[:1000])
    assert star_exp("import", tmp_path / "bad.tar.gz", home=tmp_path / "bad-home").returncode == 2


def test_gc_shows_first_and_keeps_what_a_table_needs(lab: Lab) -> None:
    plan = lab.plan()
    assert "nothing to remove" in star_exp("gc", home=lab.path).stdout
    orphan = lab.home.jobs / f"train-{'0' * 16}"
    orphan.mkdir()
    (orphan / "x").write_bytes(bytes(5000))
    unknown = lab.home.jobs / f"train-{'1' * 16}"
    unknown.mkdir()  # the ledger knows nothing of it: it stays, and so does the code that it ran
    code = lab.home.code / ("c" * 16)
    code.mkdir()
    (code / "x").write_bytes(bytes(10))
    os.utime(code, (0, 0))
    (unknown / "job.json").write_text(json.dumps({"snapshot": f"/elsewhere/code/{code.name}"}))
    lab.ledger.jobs.add([NewJob("0" * 16, "train", "of a row that was left out", 0)])
    (lab.path / ".git").mkdir()
    os.utime(lab.path / ".git", (0, 0))
    scratch = lab.folder(plan, "train").checkpoints
    scratch.mkdir()
    (scratch / "old.pt").write_bytes(bytes(3000))
    (lab.path / "references").mkdir()
    (lab.path / "references" / "r.npz").write_bytes(bytes(2000))
    shown = json.loads(star_exp("gc", "--json", home=lab.path).stdout)
    assert {one["kind"]: one["bytes"] for one in shown["found"]} == {
        "jobs of no experiment": 5000,
        "left behind": 3000,
        "references": 2000,
    }
    assert orphan.exists() and shown["deleted"] is False
    assert "removed 10 kB" in star_exp("gc", "--delete", home=lab.path).stdout
    assert (
        not orphan.exists()
        and not scratch.exists()
        and unknown.exists()
        and code.exists()
        and (lab.path / ".git").exists()
    )
    before = {path: path.read_bytes() for path in lab.home.jobs.glob("*/result.json")}
    done = star_exp("gc", "--intermediates", "--delete", home=lab.path)
    assert done.returncode == 0
    assert not (lab.folder(plan, "generate").out / "value.txt").exists()
    for stage in ("train", "tokenizer"):
        assert (lab.folder(plan, stage).out / "value.txt").exists(), "weights stay"
    assert before == {path: path.read_bytes() for path in lab.home.jobs.glob("*/result.json")}
    assert not lab.plan().to_do  # the table is done all the same
    extended = lab.plan(seeds=[0, 1])
    assert {job.stage for job in extended.to_do if len(job.runs) > 4} == {"dataset", "encode", "reference"}
    assert lab.run(extended).failed == []
    assert (lab.folder(plan, "encode").out / "value.txt").exists()


def test_retry_cancel_and_rerun_say_what_they_did(lab: Lab) -> None:
    plan = lab.plan()
    key = plan.runs[2].stages["probe"]
    assert "nothing to retry" in star_exp("retry", "--failed", home=lab.path).stdout
    assert "nothing to cancel" in star_exp("cancel", key, home=lab.path).stdout
    shown = star_exp("rerun", key[:9], home=lab.path).stdout
    assert f"queued   probe {key}" in shown and "queued 1 job;" in shown
    assert f"cancelled probe {key}" in star_exp("cancel", key, home=lab.path).stdout
    shown = star_exp("retry", key, home=lab.path).stdout
    assert f"queued   probe {key}" in shown and "no scheduler is at work" in shown
    for mistake, says in (
        (["retry"], "give keys, or --experiment NAME, or --failed"),
        (["cancel", "--experiment", "mani"], "there is no experiment of that name here; there are: many"),
        (
            ["cancel", "--experiment", "many@other"],
            "many@other: there is no experiment of that name here; there are: many@tiny",
        ),
        (["rerun", "zzz"], "begins no key of a run or a job"),
    ):
        done = star_exp(*mistake, home=lab.path)
        assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_budget_is_a_hard_stop(lab: Lab) -> None:
    priced = ["--seeds", "5", "--set", "resources.gpu=H100"]
    for verb in ("plan", "run"):
        dear = light(verb, MANY, *priced, "--budget-gpu-hours", "0", home=lab.path)
        assert dear.returncode == 2 and "nothing was started" in dear.stderr, dear.stderr
        unpriced = light(verb, MANY, "--seeds", "5", "--budget-gpu-hours", "1", home=lab.path)
        assert unpriced.returncode == 2 and "--set resources.gpu=H100" in unpriced.stderr
    assert light("plan", MANY, *priced, "--budget-gpu-hours", "1", home=lab.path).returncode == 0


def test_a_fork_is_shown_and_refused(lab: Lab) -> None:
    changed = ["--set", "optim.steps=20"]
    assert "fork: 4 runs changed: optim.steps: 30 -> 20" in star_exp("plan", MANY, *changed, home=lab.path).stdout
    for detach in ([], ["--detach"]):
        done = light("run", MANY, *changed, *detach, home=lab.path)
        assert done.returncode == 2 and "give --fork" in done.stderr and "Traceback" not in done.stderr
    assert read_json(lab.path / "experiments" / "many@tiny.json")["rows"][0]["run"]["spec"]["optim"]["steps"] == 30


def test_detach_watch_and_follow(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that goes on alone; `watch` and `logs -f` end when there is nothing more to see."""
    monkeypatch.setenv("LIGHT_SECONDS", "0.5")
    done = light("run", MANY, "--seeds", "0,1", "--detach", home=lab.path)
    assert done.returncode == 0 and "detached: process" in done.stdout, done.stdout + done.stderr
    watched = star_exp("watch", "--every", "0.2", home=lab.path)
    assert watched.returncode == 0 and watched.stdout.count("many · tiny:") > 2
    assert "8 of 8 runs done" in watched.stdout.strip().splitlines()[-1] or "8 of 8 runs done" in watched.stdout
    key = lab.plan(seeds=[0, 1]).runs[4].stages["train"]
    followed = star_exp("logs", "-f", key, home=lab.path)
    assert followed.returncode == 0 and "== attempt 1" in followed.stdout
    log = next((lab.path / "logs").iterdir())
    until(lambda: "all done" in log.read_text(), "its end")
    assert lab.ledger.jobs.of_state(FAILED) == []
    until(lambda: not lab.ledger.schedulers.all(), "its leaving")
    again = light("run", MANY, "--seeds", "0,1", "--detach", home=lab.path)
    ended = "it ended with exit code 0; " in again.stdout and "8 runs;" in again.stdout
    assert again.returncode == 0 and (ended or "goes on" in again.stdout), (
        "nothing is left to do: it may be over already"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_learn_to_complete(shell: str) -> None:
    assert "_STAR_EXP_COMPLETE" in star_exp("completion", shell).stdout


def test_keys_are_completed_from_the_ledger(lab: Lab) -> None:
    key = lab.plan().runs[0].key
    environment = os.environ | {"COMP_WORDS": f"star-exp show --home {lab.path} {key[:5]}", "COMP_CWORD": "4"}
    script = Path(sys.executable).parent / "star-exp"
    done = subprocess.run(
        [script], env=environment | {"_STAR_EXP_COMPLETE": "bash_complete"}, capture_output=True, text=True
    )
    assert f"plain,{key}" in done.stdout


def test_output_that_was_deleted_is_seen_by_the_plan(lab: Lab) -> None:
    """A folder or a file of it; made again where it is needed, named with its verb where it is not."""
    plan = lab.plan()
    run = plan.runs[0].stages
    probe, train, encode = (lab.home.job(stage, run[stage]) for stage in ("probe", "train", "encode"))
    shutil.rmtree(probe.out)
    made = {path.name: path for path in train.out.iterdir()}
    (lost,) = list(made.values())[:1]
    lost.write_bytes(b"half")
    shutil.rmtree(encode.out)
    before = {job.key: job for job in lab.plan().jobs.values()}
    assert {job.action for job in before.values()} == {"reuse"}, "nothing reads them now"
    assert (
        before[run["probe"]].reason
        == f"done; its output was deleted, `star-exp rerun {run['probe'][:8]}` makes it again"
    )
    done = light(
        "run", MANY, "--plain", "--out", lab.path / "again", "--set", "probe.epochs=7", "--name", "other", home=lab.path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    again = [line for line in done.stdout.splitlines() if "started" in line or "resumed" in line]
    assert sum(run["train"] in line for line in again) == sum(run["encode"] in line for line in again) == 1
    assert train.has_output() and encode.has_output() and not probe.has_output()
    asked = light("rerun", run["probe"], home=lab.path)
    assert asked.returncode == 0, asked.stderr
    assert light("run", MANY, "--plain", "--out", lab.path / "again", home=lab.path).returncode == 0
    assert probe.has_output() and not probe.was_deleted()


def test_what_a_plan_says_of_output_that_is_needed_and_gone(lab: Lab) -> None:
    plan = lab.plan()
    shutil.rmtree(lab.home.job("probe", plan.runs[0].stages["probe"]).path)
    train = lab.home.job("train", plan.runs[0].stages["train"])
    next(iter(train.out.iterdir())).unlink()
    shown = star_exp("plan", MANY, home=lab.path, cwd=ROOT).stdout
    (line,) = [line for line in shown.splitlines() if plan.runs[0].stages["train"] in line]
    assert "of its output has gone, and is needed again" in line and " run " in line
