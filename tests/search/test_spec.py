"""What is wrong with a search is told with file and line before there is a trial."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from star.errors import SpecError
from star.rundir import Home
from star.search.study import Study
from star.spec.load import load
from star.spec.load_search import load_search
from star.spec.points import start_points
from tests.search.lab import SEARCH, SearchLab

ALPHA = "selfguided.mim_weight: {low: 0, high: 4}"
BETA = "selfguided.contrastive_weight: {low: 0, high: 2}"
PRUNER = "pruner: {name: halving, min_steps: 10, reduction: 3}"

MISTAKES = {
    "an unknown field": (
        "mim_weight: {low",
        "mim_wait: {low",
        r":5: space.selfguided.mim_wait: .*did you mean mim_weight",
    ),
    "an empty range": (ALPHA, ALPHA.replace("high: 4", "high: 0"), r":5: space.selfguided.mim_weight.high: .*is empty"),
    "a logarithm from zero": (
        ALPHA,
        ALPHA.replace("4}", "4, log: true}"),
        r":5: .*mim_weight.low: .*logarithm cannot begin at 0",
    ),
    "a range beyond the field's": ("high: 0.6", "high: 1.2", r":7: selfguided.mask_ratio: 1.2 is not legal"),
    "a default outside": (ALPHA, ALPHA.replace("low: 0", "low: 2"), r":5: .*the base's own 1.0 is the first trial"),
    "a range of texts": (ALPHA, "selfguided.mim_distance: {low: 0, high: 1}", r":5: .*is no number; give choices"),
    "an illegal choice": (
        ALPHA,
        "selfguided.mim_distance: {choices: [cosine, cosin]}",
        r"'cosin' is not legal.*did you mean",
    ),
    "one choice": (ALPHA, "selfguided.mim_distance: {choices: [cosine]}", r":5: .*give two different ones or more"),
    "half a number": (ALPHA, "selfguided.num_positions: {low: 2.5, high: 4}", r":5: .*is a whole number"),
    "what changes nothing": (ALPHA, "resources.checkpoint_every: {low: 1, high: 5}", r":5: .*changes nothing"),
    "the seed": (ALPHA, "seed: {low: 0, high: 5}", r":5: space.seed: seeds are no parameter"),
    "an unknown metric": (
        "metric: probe/accuracy",
        "metric: probe/acuracy",
        r":9: objectives.0.metric: .*did you mean probe/accuracy",
    ),
    "a whole curve": ("metric: probe/accuracy", "metric: train/loss", r":9: .*is a curve; say where"),
    "a late comparison": (
        "min_steps: 10",
        "min_steps: 30",
        r":11: pruner.min_steps: 30 is not before the end of training, 30",
    ),
    "another training": (
        "min_steps: 10",
        "min_steps: 10, spec: {optim: {lr: 1}}",
        r":11: pruner.spec.optim: .*may only change generate",
    ),
    "a comparison that is blind to what varies": (
        "min_steps: 10",
        "min_steps: 10, spec: {probe: {epochs: 1}}",
        r":11: pruner.spec.probe.epochs: is what the search varies",
    ),
    "more steps than numbers": (
        ALPHA,
        ALPHA.replace("4}", "4, step: 5.0e-324}"),
        r":5: .*step: makes more values than",
    ),
    "a seed in the base": ("space:", "base: {seed: 3}\nspace:", r":4: base.seed: seeds belong to the search"),
    "a sampler": ("name: tpe", "name: tpee", r":12: sampler.name: 'tpee' is not legal.*did you mean tpe"),
    "seeds twice": ("seeds: [1, 2]", "seeds: [0, 1]", r":13: confirm.seeds: .*none is among the trials' own"),
    "a start outside": (
        PRUNER,
        PRUNER + "\nstart: [{selfguided.mim_weight: 5}]",
        r":12: start.0.selfguided.mim_weight: 5 is not in its range",
    ),
    "a step that leaves the end out": (
        "high: 4}",
        "high: 4, step: 1.5}",
        r":5: .*no step of 1.5 from 0 ends at 4; give 3 or 4.5",
    ),
    "a choice that is no number": (
        ALPHA,
        "selfguided.mim_weight: {choices: [.nan, 2]}",
        r":5: .*nan and inf are no values",
    ),
    "one choice twice": (ALPHA, "selfguided.mim_weight: {choices: [1, 2, 2.0]}", r":5: .*give two different ones"),
    "an infinite range": ("high: 4", "high: .inf", r":5: space.selfguided.mim_weight.high: inf is not legal"),
    "a comparison after a number": (
        "metric: probe/accuracy",
        "metric: train/loss@25",
        r":9: .*lies after the first comparison",
    ),
    "a curve that is not recorded": (
        "metric: probe/accuracy",
        "metric: train/val_nll_by_step@last",
        r":9: .*is not recorded",
    ),
    "a probe's misspelt field": (
        "min_steps: 10",
        "min_steps: 10, spec: {probe: {epoch: 1}}",
        r"search.yaml:11: probe.epoch: unknown key",
    ),
    "a change of no comparison": (
        PRUNER,
        "pruner: {spec: {probe: {epochs: 1}}}",
        r":11: pruner.spec: .*without one there is nothing",
    ),
    "a search that ends early": (
        "space:",
        "base: {optim: {until: 5}}\nspace:",
        r":4: optim.stop_at_step: has no place in a search",
    ),
    "a search of given images": (
        "space:",
        "base: {generate: {samples: /tmp}}\nspace:",
        r":4: generate.samples: has no place",
    ),
    "a section": (
        ALPHA,
        "selfguided: {choices: [1, 2]}",
        r":5: space.selfguided: is a section of a run; name one of its fields",
    ),
    "what no objective sees": (
        ALPHA,
        "generate.num_images: {low: 40, high: 60}",
        r":5: .*changes nothing that the objectives see",
    ),
    "no legal run at an end": (
        ALPHA,
        "model.n_layer: {low: 1, high: 4}",
        r":5: space.model.n_layer: at 1 there is no .*1 alone",
    ),
    "a scale of nothing": ("scale: 100", "scale: 0", r":9: objectives.0.scale: 0 is not legal; give a number above 0"),
    "one fresh seed": (
        "seeds: [1, 2]",
        "seeds: [1]",
        r":13: confirm.seeds: \[1\] is not legal; give a list of 2 or more",
    ),
    "a start elsewhere": (PRUNER, PRUNER + "\nstart: [{optim.lr: 5}]", r":12: start.0.optim.lr: is no parameter"),
}


@pytest.mark.parametrize("old, new, message", MISTAKES.values(), ids=list(MISTAKES))
def test_mistakes_are_told_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    more = [(ALPHA, "probe.epochs: {low: 1, high: 5}")] if "is what the search varies" in message else []
    lab = SearchLab(tmp_path, (old, new), *more)
    with pytest.raises(SpecError, match=message):
        load_search(lab.file)


def test_several_objectives_have_no_pruner(tmp_path: Path) -> None:
    second = "scale: 100}\n  - {metric: train/val_nll, direction: minimize}"
    lab = SearchLab(tmp_path, ("scale: 100}", second))
    with pytest.raises(SpecError, match="pruner.name: halving compares by one objective"):
        load_search(lab.file)


def test_a_sampler_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = SearchLab(tmp_path, ("name: tpe", "name: cmaes"))
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(SpecError, match=r"cmaes needs .* which is not installed; `pip install -e '.\[search\]'`"):
        Study(load_search(lab.file), Home(tmp_path))
    assert not (tmp_path / "studies.sqlite").exists()


def test_an_objective_stands_once(tmp_path: Path) -> None:
    lab = SearchLab(
        tmp_path, ("scale: 100}", "scale: 100}\n  - {metric: probe/accuracy, direction: minimize}"), (PRUNER, "")
    )
    with pytest.raises(SpecError, match=":10: objectives.1.metric: 'probe/accuracy' stands twice"):
        load_search(lab.file)


def test_a_search_is_no_table() -> None:
    with pytest.raises(SpecError, match="this is a search, not an experiment; `star-exp search"):
        load(SEARCH)


def test_a_table_is_no_search() -> None:
    with pytest.raises(SpecError, match="tiny.yaml:1: this is an experiment, not a search; `star-exp run"):
        load_search(SEARCH.with_name("tiny.yaml"))


def test_conditional_parameters_are_there_with_their_choice(tmp_path: Path) -> None:
    space = (
        "selfguided.inter_step: {choices: [true, false]}\n"
        "  selfguided.temperature: {low: 0.05, high: 1, log: true, when: {selfguided.inter_step: [true]}}"
    )
    lab = SearchLab(tmp_path, (BETA, space), (PRUNER, PRUNER + "\nstart: [{selfguided.inter_step: false}]"))
    default, other = start_points(load_search(lab.file))
    assert default["selfguided.temperature"] == 0.2 and default["selfguided.inter_step"] is True
    assert other["selfguided.inter_step"] is False and "selfguided.temperature" not in other


def test_a_condition_names_a_choice_above_it(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path, (BETA, BETA.replace("2}", "2, when: {selfguided.inter_step: [true]}}")))
    with pytest.raises(
        SpecError, match=":6: space.selfguided.contrastive_weight.when: selfguided.inter_step must be a parameter"
    ):
        load_search(lab.file)


def test_conditions_may_stand_in_two_levels(tmp_path: Path) -> None:
    space = (
        "selfguided.inter_step: {choices: [false, true]}\n"
        "  selfguided.normalize: {choices: [true, false], when: {selfguided.inter_step: [true]}}\n"
        "  selfguided.temperature: {low: 0.05, high: 1, when: {selfguided.normalize: [false]}}"
    )
    lab = SearchLab(tmp_path, (BETA, space), ("space:", "base: {selfguided: {inter_step: false}}\nspace:"))
    assert "selfguided.temperature" not in start_points(load_search(lab.file))[0]


def test_choices_of_numbers_are_numbers(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path, (ALPHA, "selfguided.mim_weight: {choices: [0, 1, 2]}"))
    assert start_points(load_search(lab.file))[0]["selfguided.mim_weight"] == 1


def test_runs_to_the_end_keep_the_keys_they_had() -> None:
    from star.pipeline import STAGES
    from star.spec.keys import stage_content

    search = load_search(SEARCH)
    run = search.run(search.point_of(search.default))
    assert "until" not in stage_content(STAGES["train"], run, {}, {})["spec"]["optim"]
    early = search.run(search.point_of(search.default), 10)
    assert stage_content(STAGES["train"], early, {}, {})["spec"]["optim"]["until"] == 10


def test_a_search_says_what_a_run_would_say() -> None:
    """Optuna wants a handler at the root of all loggers; a warning of the scheduler's is printed nevertheless, once."""
    code = "import logging, star.search.study; logging.getLogger('star.scheduler.metrics_sync').warning('not carried')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stderr == "not carried\n"
