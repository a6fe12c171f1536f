"""A study's report from what a search left behind: its files, its verdict, and an experiment that finds the same runs."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from star.cli.report import write_studies
from star.ledger.store import open_ledger
from star.report.fuller import trials_kept_back
from star.report.importance import importances
from star.report.study import StudyReport, Verdict
from star.report.study_files import best_yaml
from star.report.study_text import outcome
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.search import browse
from star.search.study import PROMOTED, Study
from star.spec.load import load
from star.spec.load_search import load_search
from star.tracking.reader import open_reader
from tests.helpers import empty_tracking_store, star_exp
from tests.light.worker import bowl
from tests.search.lab import SearchLab
from tests.search.test_spec import ALPHA


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchLab:
    """A search with its tracked runs, of workers that pretend."""
    lab = SearchLab(
        tmp_path_factory.mktemp("searched"), ("trials: 6", "trials: 20"), ("title: A search in seconds", "title: a < b")
    )
    shutil.copy(empty_tracking_store(), lab.path / "mlflow.sqlite")
    lab.run(total=20)
    lab.deliver()
    write_studies([load_search(lab.file)], lab.path, lab.path / "reports")
    return lab


def folder(lab: SearchLab) -> Path:
    return lab.path / "reports" / "tiny-search" / "tiny"


def test_all_files_are_there(searched: SearchLab) -> None:
    names = {path.name for path in folder(searched).iterdir()}
    texts = {
        "report.md",
        "report.html",
        "trials.csv",
        "best.yaml",
        "top.tex",
        "top.csv",
        "confirmed.tex",
        "confirmed.csv",
    }
    figures = {f"{name}.{kind}" for name in ("history", "importances", "slices", "contours") for kind in ("png", "pdf")}
    assert texts | figures <= names
    assert "<title>a &lt; b</title>" in (folder(searched) / "report.html").read_text()
    text = (folder(searched) / "report.md").read_text()
    assert "20 trials (" in text and "ended early" in text and "best.yaml" in text
    assert "early saved" in text or "early cost" in text
    assert "Minus trial 0" not in text  # one interval for a difference, and not two
    note = "Better than the default by (Welch intervals, 95% over all 2 comparisons together)"
    assert note in text and "all 2 comparisons together" in (folder(searched) / "confirmed.tex").read_text()
    lines = list(csv.DictReader((folder(searched) / "trials.csv").read_text().splitlines()))
    assert [line["trial"] for line in lines] == [str(i) for i in range(20)]
    early = [line for line in lines if line["state"] == "ended early"]
    assert early and all(line["compared at step"] == "10" and float(line["value there"]) > 0 for line in early)
    runs = open_ledger(Home(searched.path)).runs.of([line["run"] for line in lines])
    assert len(runs) == 20  # of those that were ended early, what ran
    assert {run.spec["optim"]["stop_at_step"] for run in runs.values()} == {10, None}


def test_the_same_bytes_again(searched: SearchLab) -> None:
    before = {path.name: path.read_bytes() for path in folder(searched).iterdir()}
    write_studies([load_search(searched.file)], searched.path, searched.path / "reports")
    assert {path.name: path.read_bytes() for path in folder(searched).iterdir()} == before


def test_by_its_name_it_is_reported_as_it_was_run(searched: SearchLab, tmp_path: Path) -> None:
    """Without its file; nothing changes what was run."""
    before = {path.name: path.read_bytes() for path in folder(searched).iterdir()}
    done = star_exp("report", "tiny-search", "--out", tmp_path / "out", home=searched.path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "tiny-search" / "tiny"
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    del before["best.yaml"]  # names the profile by its place: here that of the copy
    assert again == before | {"best.yaml": again["best.yaml"]} and len(before) > 10
    assert load(out / "best.yaml").variants == load(folder(searched) / "best.yaml").variants
    for options, says in (
        (("--set", "optim.steps=3"), "--set: tiny-search is taken as it was run"),
        (("--seeds", "1"), "--seeds: tiny-search is taken as it was run"),
        (("--profile", "other"), "tiny-search was not run at it"),
    ):
        refused = star_exp("report", "tiny-search", *options, home=searched.path, cwd=tmp_path)
        assert refused.returncode == 2 and says in refused.stderr, refused.stderr


def test_a_copy_of_a_search_has_what_the_command_line_changed(searched: SearchLab, tmp_path: Path) -> None:
    changed = load_search(searched.file, sets=["optim.steps=70"], name="other")
    for name, text in changed.written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    again = load_search(tmp_path / "other.yaml")
    changed_spec = changed.spec.model_copy(update={"base": again.spec.base})
    assert (again.spec, again.default, again.profile) == (changed_spec, changed.default, "tiny")
    assert again.default.optim.steps == 70 and again.written["other.yaml"] == changed.written["other.yaml"]


def test_the_best_trials_are_an_experiment_of_the_same_runs(searched: SearchLab) -> None:
    experiment = load(folder(searched) / "best.yaml")
    home = Home(searched.path)
    plan = make_plan(experiment, home, open_ledger(home))
    assert {run.label.split()[0] for run in plan.runs} == {"trial"} and len(plan.runs) == 6
    assert plan.to_do == []  # all of it was computed by the search


def test_a_report_of_fewer_trials_is_told_by_trials(tmp_path: Path) -> None:
    """Why a trial failed may take two lines of the file."""
    (tmp_path / "trials.csv").write_text('number,why\n0,\n1,"one line\nand another"\n')
    assert trials_kept_back(tmp_path, 2) is None
    assert "it has 2 trials" in (trials_kept_back(tmp_path, 1) or "")


def test_importances_are_computed_once_for_all_views(searched: SearchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    compute = browse.importances_of
    monkeypatch.setattr(browse, "importances_of", lambda *given: asked.append(1) or compute(*given))
    monkeypatch.setattr(browse, "_IMPORTANCES", {})
    first, second = (browse.studies(Home(searched.path))[0].importances() for _ in range(2))
    assert first == second and first and len(asked) == 1


def test_a_reports_spread_is_no_searchs(searched: SearchLab) -> None:
    said = searched.to_its_end("--spread", "interval", verb="report")
    assert said.returncode == 2 and "is a search, whose ± is a standard deviation" in said.stderr


def test_importances_find_what_matters(tmp_path: Path, images: Path) -> None:
    search, draws = load_search(SearchLab(tmp_path).file), random.Random(0)
    study = Study(search, Home(tmp_path))
    for _ in range(60):
        point = {name: draws.uniform(part.low, part.high) for name, part in search.spec.space.items()}
        study.add(point, [bowl(search.run(point).model_dump())["accuracy"]])
    [ones] = importances(study).values()
    assert sum(one.mean for one in ones) == pytest.approx(1) and all(0 < one.deviation < 0.2 for one in ones)
    assert min(ones, key=lambda one: one.mean).name == "selfguided.mask_ratio"  # the bowl is flattest there


def test_a_report_of_everything_has_the_study(searched: SearchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    from star.report.index import write_index

    [study] = write_studies([load_search(searched.file)], searched.path, searched.path / "reports")
    index, page = write_index([], searched.path / "reports", [study])
    assert "## a < b" in index.read_text() and "(#a--b)" in index.read_text()
    assert '<h2 id="tiny-search">' in page.read_text() and "data:image/png;base64," in page.read_text()


@pytest.mark.parametrize("low, word", [(0.1, "beats the default beyond"), (-0.1, "the default is not beaten")])
def test_the_verdict_follows_its_interval(searched: SearchLab, low: float, word: str) -> None:
    from star.report.stats import Interval

    study = Study(load_search(searched.file), Home(searched.path), begin=False)
    report = StudyReport(study.search, study, Home(searched.path), None, open_reader("sqlite:///none"), "")
    report.__dict__["verdicts"] = [Verdict("trial 1", 70.0, 69.0, Interval(1.0, low, 2.0, 0.975))]
    assert word in outcome(report)


def test_a_trial_that_beats_the_default_is_told_though_another_has_the_larger_mean(searched: SearchLab) -> None:
    from star.report.stats import Interval

    study = Study(load_search(searched.file), Home(searched.path), begin=False)
    report = StudyReport(study.search, study, Home(searched.path), None, open_reader("sqlite:///none"), "")
    wide = Verdict("trial 3", 75.0, 70.0, Interval(5.0, -9.3, 19.3, 0.975))
    report.__dict__["verdicts"] = [wide, Verdict("trial 7", 74.0, 70.0, Interval(4.0, 3.7, 4.3, 0.975))]
    told = outcome(report)
    assert "trial 7 (" in told and "beats the default beyond" in told


def test_a_default_that_was_retried_did_not_fail(searched: SearchLab, tmp_path: Path) -> None:
    lab = SearchLab(tmp_path)
    search = load_search(lab.file)
    study = Study(search, Home(tmp_path))
    trial, point = study.ask()
    study.tell(trial.number, None, TrialState.FAIL, why="probe failed")
    report = StudyReport(search, study, Home(tmp_path), None, open_reader("sqlite:///none"), "")
    assert "The default itself failed" in outcome(report)
    study.add(point, [0.5], **{PROMOTED: 0})
    report = StudyReport(search, study, Home(tmp_path), None, open_reader("sqlite:///none"), "")
    assert "The default itself failed" not in outcome(report)


def test_verdicts_are_strict_for_all_repeated_trials_those_to_come_too(
    searched: SearchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(load_search(searched.file), Home(searched.path), begin=False)
    report = StudyReport(study.search, study, Home(searched.path), None, open_reader("sqlite:///none"), "")
    values = {"trial 0": (70.0, 70.4, 69.6), "trial 3": (73.0, 74.1, 72.1), "trial 7": (72.0, 72.3)}
    monkeypatch.setattr(
        StudyReport,
        "confirmed",
        SimpleNamespace(
            experiment=SimpleNamespace(variants=[SimpleNamespace(label=label) for label in values]),
            evidence=SimpleNamespace(
                numbers=lambda label, metric: SimpleNamespace(
                    values=list(values[label]), missing={} if len(values[label]) == 3 else {2: "queued"}
                )
            ),
        ),
    )
    (only,) = report.verdicts
    assert only.label == "trial 3" and only.difference.level == pytest.approx(0.975)
    assert "1 repeated trial more would be compared: seeds are missing." in outcome(report)


def test_a_value_of_a_step_is_written_as_it_was_run(tmp_path: Path, images: Path) -> None:
    """A sampler's 0.35000000000000003 would be another run."""
    lab = SearchLab(
        tmp_path,
        (
            "selfguided.mask_ratio: {low: 0, high: 0.6}",
            "selfguided.mask_ratio: {low: 0.05, high: 0.65, step: 0.1}",
        ),
    )
    search = load_search(lab.file)
    study = Study(search, Home(lab.path))
    for ratio in (0.25, 0.35000000000000003):
        study.add({**search.point_of(search.default), "selfguided.mask_ratio": ratio}, [ratio])
    report = StudyReport(search, study, Home(lab.path), None, open_reader("sqlite:///none"), "")
    text = best_yaml(report, tmp_path)
    assert "mask_ratio: 0.35\n" in text and "0000003" not in text


def test_parameters_of_one_name_are_told_apart(tmp_path: Path, images: Path) -> None:
    """`batch size` twice, a parameter like an objective, a value that YAML would read as a number, and one with a `when`."""
    space = """optim.batch_size: {low: 4, high: 16}
  probe.batch_size: {low: 32, high: 64}
  selfguided.inter_step: {choices: [true, false]}
  selfguided.temperature: {low: 0.05, high: 1, log: true, when: {selfguided.inter_step: [true]}}"""
    lab = SearchLab(tmp_path, (ALPHA, space), ("title: Probe %", "title: mask ratio"))
    search = load_search(lab.file)
    study = Study(search, Home(lab.path))
    default = search.point_of(search.default) | {"selfguided.inter_step": False}
    default.pop("selfguided.temperature", None)
    study.add(default, [0.5])
    report = StudyReport(search, study, Home(lab.path), None, open_reader("sqlite:///none"), "")
    table = report.top.table
    assert table is not None
    titles = [column.title for column in table.columns]
    assert titles[1:3] == ["optim.batch_size", "probe.batch_size"] and titles[-1] == "probe/accuracy"
    (tmp_path / "best.yaml").write_text(best_yaml(report, tmp_path))
    assert "temperature" not in (tmp_path / "best.yaml").read_text()
    assert load(tmp_path / "best.yaml").variants


def test_logarithmic_axes_have_numbers(tmp_path: Path, images: Path) -> None:
    from star.report.figures.study import contours, slices

    rate = "optim.lr: {low: 1.0e-3, high: 1.0, log: true}"
    search = load_search(SearchLab(tmp_path, (ALPHA, rate)).file)
    study, draws = Study(search, Home(tmp_path)), random.Random(0)
    for _ in range(9):
        point = {name: draws.uniform(0.0, 0.6) for name in search.spec.space} | {"optim.lr": 10 ** draws.uniform(-3, 0)}
        study.add(point, [draws.random()])
    report = StudyReport(search, study, Home(tmp_path), None, open_reader("sqlite:///none"), "")
    for drawn in (slices(report), contours(report)):
        drawn.canvas.draw()
        ticks = [tick.get_text() for tick in drawn.axes[0].get_xticklabels()]
        assert "0.1" in ticks and not any("$" in tick for tick in ticks)
