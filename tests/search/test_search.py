"""Searches with workers that only pretend: who asks what, when, and what is remembered."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from star.errors import SpecError
from star.ledger.store import open_ledger
from star.rundir import Home
from star.search.segments import TrialSegments
from star.search.study import PROMOTED, SAME_AS, WARM, Study, counts
from star.spec.load import load
from star.spec.load_search import load_search
from tests.helpers import ROOT, empty_tracking_store
from tests.search.lab import SearchLab
from tests.search.test_spec import ALPHA, BETA, PRUNER
from tests.services import until

CONFIRM = "confirm: {top: 2, seeds: [1, 2]}"
FLOOR = 'metric: "floor/{extractor}/frechet_distance", direction: minimize'
FEW = [(PRUNER + "\n", ""), (CONFIRM, "")]


def test_a_search_ends_with_its_trials_its_winner_and_its_report(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, ("trials: 6", "trials: 5"))
    said = lab.search("--slots", "2")
    trials = lab.trials()
    assert len(trials) == 5 and trials[0].params["selfguided.mim_weight"] == 1.0  # the default is the first
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.PRUNED] and states[TrialState.COMPLETE] >= 2
    early = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert all(list(trial.intermediate_values) == [10] for trial in early)
    assert all(times == 1 for times in lab.times_done().values())
    assert "repeating trial 0, trial" in said
    report = (tmp_path / "reports" / "tiny-search" / "tiny" / "report.md").read_text()
    assert "within the noise of seeds" in report  # the pretended numbers do not depend on the seed: no interval
    with sqlite3.connect(tmp_path / "mlflow.sqlite") as store:
        rows = store.execute("select key, value from tags where key in ('star.study', 'star.trial')").fetchall()
    assert set(rows) == {("star.study", "tiny-search"), *(("star.trial", str(number)) for number in range(5))}


def test_ten_kills_leave_as_many_trials_and_nothing_done_twice(tmp_path: Path, images: Path) -> None:
    lab, draws = SearchLab(tmp_path, ("trials: 6", "trials: 8")), random.Random(0)
    slow = {"LIGHT_STEPS": "5", "LIGHT_SECONDS": "0.05"}
    for _ in range(10):
        before, process = lab.work(), lab.start("--slots", "2", **slow)
        wanted = before + draws.randint(0, 8)  # of two hundred in all: every kill hits a search that goes on
        until(lambda: lab.work() >= wanted or process.poll() is not None, "steps of its jobs")  # noqa: B023
        assert process.poll() is None, process.communicate()[0]
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    lab.search("--slots", "2", **slow)
    trials = lab.trials()
    assert len(trials) == 8 and all(trial.state.is_finished() and counts(trial) for trial in trials)
    assert TrialState.FAIL not in {trial.state for trial in trials}
    assert len({json.dumps(trial.params, sort_keys=True) for trial in trials}) == 8
    assert all(times == 1 for times in lab.times_done().values())


def test_the_same_command_again_asks_nothing(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path)
    lab.run()
    assert not any(line.startswith(("started", "trial")) for line in lab.run()) and len(lab.trials()) == 6
    lab.run(total=8)
    assert len(lab.trials()) == 8


def test_several_trials_run_at_a_time(tmp_path: Path, images: Path) -> None:
    said = SearchLab(tmp_path, *FEW).run(parallel=3)
    first = [line for line in said if line.startswith("trial")][:3]
    assert [line.split(":")[0] for line in first] == ["trial 0", "trial 1", "trial 2"]
    assert not any("complete" in line for line in first)


def test_two_objectives_have_a_front(tmp_path: Path, images: Path) -> None:
    second = "scale: 100}\n  - {metric: train/val_nll, direction: minimize}"
    lab = SearchLab(tmp_path, ("scale: 100}", second), ("name: tpe", "name: default"), *FEW)
    lab.run()
    assert all(len(trial.values) == 2 for trial in lab.trials())


@pytest.mark.parametrize("name", ["gp", "cmaes", "random", "default"])
def test_every_sampler_searches(tmp_path: Path, images: Path, name: str) -> None:
    lab = SearchLab(tmp_path, ("name: tpe", f"name: {name}"), *FEW)
    lab.run()
    assert len({json.dumps(trial.params) for trial in lab.trials()}) == 6


def test_hyperband_ends_trials_too(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, ("name: halving, min_steps: 10", "name: hyperband, min_steps: 5"), (CONFIRM, ""))
    lab.run(total=9)
    assert len(lab.trials()) == 9 and TrialState.PRUNED in {trial.state for trial in lab.trials()}


def test_the_default_goes_on_whatever_is_ended(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna.Trial.should_prune", lambda trial: True)
    lab = SearchLab(tmp_path)
    said = lab.run(total=3)
    states = [trial.state for trial in lab.trials()]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert "repeating trial 0 on seeds 1, 2" in said


def test_what_a_kill_left_undelivered_is_delivered(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    shutil.copy(empty_tracking_store(), tmp_path / "mlflow.sqlite")
    lab.run(total=2)  # nothing carries it to MLflow
    lab.search("--trials", "2")
    with sqlite3.connect(tmp_path / "mlflow.sqlite") as store:
        found = store.execute("select value from tags where key = 'star.trial'").fetchall()
        values = store.execute("select count(*) from latest_metrics where key = 'probe/accuracy'").fetchone()
    assert sorted(found) == [("0",), ("1",)] and values == (2,)


def test_values_on_a_step_are_as_they_are_written(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, ("high: 0.6", "high: 0.6, step: 0.05"), *FEW)
    lab.run(total=8)
    ratios = {
        json.loads(path.read_text())["spec"]["selfguided"]["mask_ratio"]
        for path in tmp_path.glob("jobs/train-*/job.json")
    }
    assert ratios <= {round(0.05 * i, 2) for i in range(13)} and len(ratios) > 3


def test_another_pruner_or_other_images_are_another_study(tmp_path: Path, images: Path) -> None:
    SearchLab(tmp_path).run(total=1)
    with pytest.raises(SpecError, match="pruner.min_steps: 10 -> 5"):
        SearchLab(tmp_path, ("min_steps: 10", "min_steps: 5")).run(total=1)


def test_conditional_parameters_are_searched(tmp_path: Path, images: Path) -> None:
    space = (
        "selfguided.inter_step: {choices: [true, false]}\n"
        "  selfguided.temperature: {low: 0.05, high: 1, log: true, when: {selfguided.inter_step: [true]}}"
    )
    lab = SearchLab(tmp_path, (BETA, space), *FEW)
    lab.run(total=12)
    there = [
        ("selfguided.temperature" in trial.params) == trial.params["selfguided.inter_step"] for trial in lab.trials()
    ]
    assert all(there) and len({trial.params["selfguided.inter_step"] for trial in lab.trials()}) == 2


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(
        tmp_path,
        (ALPHA, "selfguided.mim_weight: {choices: [1.0, 2.0]}"),
        (f"  {BETA}\n", ""),
        ("  selfguided.mask_ratio: {low: 0, high: 0.6}\n", ""),
        *FEW,
    )
    assert any("the space has no more" in line for line in lab.run())
    assert sum(counts(trial) for trial in lab.trials()) == 2
    assert all(times == 1 for times in lab.times_done().values())
    assert any(SAME_AS in trial.user_attrs for trial in lab.trials())


def test_trials_that_all_fail_end_the_search(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    said = lab.run(total=20, parallel=1, broken=["probe"])
    assert [trial.state for trial in lab.trials()] == [TrialState.FAIL] * 4
    assert any("the first 4 trials failed" in line for line in said)
    assert lab.trials()[0].user_attrs["why"].startswith("probe ")


def test_what_all_share_fails_no_trial(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    said = lab.run(broken=["tokenizer"])
    assert any("all trials need it" in line for line in said)
    assert {trial.state for trial in lab.trials()} == {TrialState.RUNNING}
    lab.run()
    assert [trial.state for trial in lab.trials()] == [TrialState.COMPLETE] * 6


def test_a_warm_start_takes_what_is_there(tmp_path: Path, images: Path) -> None:
    first = SearchLab(tmp_path, *FEW)
    first.run()
    values = [trial.value for trial in first.trials()]
    (ledger,) = tmp_path.rglob("ledger.sqlite")
    with sqlite3.connect(ledger) as database:  # as versions recorded runs that lacked some fields
        for key, text in database.execute("select key, spec from runs").fetchall():
            spec = json.loads(text)
            del spec["floor"], spec["generate"]["draw"], spec["tokenizer"]["ema_decay"]
            database.execute("update runs set spec = ? where key = ?", (json.dumps(spec), key))
    second = SearchLab(tmp_path, ("search: tiny-search", "search: second"), *FEW)
    assert "warm start: 5 points of earlier experiments" in second.run(total=2, warm=True)
    warm = [trial for trial in second.trials() if WARM in trial.user_attrs]
    assert sorted(trial.value for trial in warm) == sorted(values[1:])  # the default is the study's own first trial
    assert sum(counts(trial) for trial in second.trials()) == 2


def test_a_trial_that_was_ended_goes_on_when_it_is_promoted(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, (CONFIRM, ""))
    lab.run()
    ended = next(trial.number for trial in lab.trials() if trial.state == TrialState.PRUNED)
    with pytest.raises(SpecError, match=f"--promote 77: .*those that were: {ended}"):
        lab.run(promoted=[77])
    lab.run(promoted=[ended])
    added = [trial for trial in lab.trials() if trial.user_attrs.get(PROMOTED) == ended]
    assert len(added) == 1 and added[0].params == lab.trials()[ended].params
    jobs = [json.loads(path.read_text()) for path in tmp_path.glob("jobs/train-*/job.json")]
    mine = [
        job for job in jobs if job["label"].startswith(f"trial {ended} ") and not job["spec"]["optim"]["stop_at_step"]
    ]
    assert len(mine) == 1 and len(mine[0]["resume_from"]) == 1  # it goes on from its checkpoint
    [early] = [job for job in jobs if job["label"] == f"trial {ended}, 10 steps · seed 0"]
    assert mine[0]["flops"] == pytest.approx(
        2 * early["flops"]
    )  # twenty steps after ten: what speeds are reckoned from
    with pytest.raises(SpecError, match=f"--promote {ended}: this trial went on to its end already"):
        lab.run(promoted=[ended])
    lab.run()
    assert sum(PROMOTED in trial.user_attrs for trial in lab.trials()) == 1


def test_a_budget_ends_it(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    said = lab.run(total=math.inf, parallel=2, budget=0.05)
    assert any("the budget of 0.05 hours is used up" in line for line in said)
    trials = lab.trials()
    assert len(trials) > 6 and sum(trial.user_attrs["hours"] for trial in trials) <= 0.05 + 1e-9
    assert lab.run(total=math.inf, budget=0.0)[-1].startswith("no more trials")
    assert len(lab.trials()) == len(trials)


def test_what_a_failed_trial_took_counts(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    lab.run(total=1, broken=["probe"])
    assert lab.trials()[0].user_attrs["hours"] >= 0.001  # its training; the probe's own seconds come on top


def test_hours_that_are_no_number_are_refused(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    for hours in ("nan", "inf", "-1"):
        assert "--budget-gpu-hours" in lab.search("--budget-gpu-hours", hours, code=2)


def test_another_space_is_another_study(tmp_path: Path, images: Path) -> None:
    SearchLab(tmp_path, *FEW).run(total=1)
    with pytest.raises(SpecError, match="was begun with other values: space.selfguided.mim_weight.high: 4 -> 3"):
        SearchLab(tmp_path, ("high: 4", "high: 3"), *FEW).run(total=1)


RATIO = "  selfguided.mask_ratio: {low: 0, high: 0.6}\n"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (RATIO, f"{RATIO}  optim.lr: {{low: 0.05, high: 0.2}}\n", "space.optim.lr: .absent. -> "),
        (RATIO, "", "space.selfguided.mask_ratio: .*-> .absent."),
        ("reduction: 3", "reduction: 3, spec: {probe: {epochs: 2}}", "pruner.spec.probe: .absent. -> "),
    ],
)
def test_what_is_added_or_taken_away_is_another_study(
    tmp_path: Path, images: Path, old: str, new: str, named: str
) -> None:
    SearchLab(tmp_path).run(total=1)
    with pytest.raises(SpecError, match=named):
        SearchLab(tmp_path, (old, new)).run(total=1)


def test_a_study_of_an_older_version_lacks_fields_that_are_newer(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    lab.run(total=1)
    study = Study(load_search(lab.file), Home(tmp_path))
    old = study.optuna.user_attrs["search"]
    del old["pruner"]["spec"], old["base"]["probe"], old["default run"]
    for parameter in old["space"].values():
        del parameter["when"]
    study.optuna.set_user_attr("search", old)
    Study(load_search(lab.file), Home(tmp_path))


def test_a_study_of_which_nothing_has_begun_may_become_another(tmp_path: Path, images: Path) -> None:
    Study(load_search(SearchLab(tmp_path, *FEW).file), Home(tmp_path))
    lab = SearchLab(tmp_path, ("high: 4", "high: 3"), *FEW)
    lab.run(total=2)
    assert max(trial.params["selfguided.mim_weight"] for trial in lab.trials()) <= 3


def test_what_the_space_decides_is_no_job_of_all_trials(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, (ALPHA, "tokenizer.lr: {low: 0.001, high: 0.01}"), *FEW)
    said = lab.run(parallel=1, broken=["tokenizer"])
    assert not any("all trials need it" in line for line in said)
    assert [trial.state for trial in lab.trials()] == [TrialState.FAIL] * 4


def test_commands_share_what_no_field_decides(tmp_path: Path, images: Path) -> None:
    """Without a stage that can be ended early, too."""
    (tmp_path / "a.py").write_text("")
    file = tmp_path / "commands.yaml"
    file.write_text(
        """
search: commands
title: Two commands
stages:
  prep: {command: "python a.py --out {out}", gpu: false}
  fit: {command: "python a.py --lr {lr} {prep}", parameters: {lr: 0.1}, after: [prep], results: [cost], gpu: false}
space: {fit.lr: {low: 0.01, high: 1}}
objectives: [{metric: fit/cost, direction: minimize}]
trials: 2
"""
    )
    search, home = load_search(file), Home(tmp_path)
    segments = TrialSegments(home, open_ledger(home), "commands", lambda plan: None)
    plan = segments.plan(search.experiment([("default", search.default)], search.spec.seeds, search.targets))
    segments.share(plan, plan, search.spec.space)
    assert segments.shared == {plan.runs[0].stages["prep"]}


def test_two_at_one_study_are_one_too_many(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, *FEW)
    first = lab.start(LIGHT_STEPS="100", LIGHT_SECONDS="0.1")
    until(lambda: (tmp_path / "studies.sqlite").exists(), "its database")
    assert "another `star-exp search`" in lab.search(code=2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()


def test_an_experiment_keeps_its_name(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, ("search: tiny-search", "search: tiny"), *FEW)
    experiment = load(ROOT / "tests" / "tiny.yaml")
    open_ledger(Home(tmp_path)).runs.set_experiment("tiny", "tiny", experiment.targets, [("a row", 0, "0" * 16)])
    assert "is the name of an experiment that ran here" in lab.search(code=2)


def test_a_trial_of_several_seeds_has_their_mean(tmp_path: Path, images: Path) -> None:
    lab = SearchLab(tmp_path, ("trials: 6", "trials: 6\nseeds: [0, 7]"), *FEW)
    lab.run(total=2)
    assert len(list(tmp_path.glob("jobs/train-*"))) == 4 and len(lab.trials()) == 2


def test_a_report_before_the_first_trial_says_so(tmp_path: Path, images: Path) -> None:

    lab = SearchLab(tmp_path, *FEW)
    done = lab.to_its_end(verb="report")
    assert done.returncode == 2 and "has no trials yet; `star-exp search" in done.stderr


def test_a_job_whose_key_holds_a_field_of_another_section_is_not_of_all_trials(tmp_path: Path, images: Path) -> None:
    """The floor scores as many images as are sampled."""
    goal = ("metric: probe/accuracy, direction: maximize, title: Probe %, scale: 100", FLOOR)
    space = (f"{ALPHA}\n  {BETA}\n{RATIO}", "generate.num_images: {low: 40, high: 60}\n")
    lab = SearchLab(tmp_path, space, goal, *FEW)
    said = lab.run(parallel=1, broken=["floor"])
    assert not any("all trials need it" in line for line in said)
