"""What a report takes as a row's numbers: one per seed, of this configuration, finite; and why others are missing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from star.ledger.states import DONE
from star.report.evidence import Evidence
from tests.report.stored import FD, STUDY, TABLE, Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    metrics = """metrics:
  drop: "100 * ([probe/accuracy_by_position@max] - [probe/accuracy_by_position@last])"
  ratio: "[probe/accuracy] / [attention/distance]"
"""
    return Study(tmp_path, STUDY + metrics + TABLE)


def test_numbers_come_by_seed_with_their_source(study: Study) -> None:
    study.put("plain", FD, 3.0, None, 5.0)
    found = study.evidence.numbers("plain", "score/{extractor}/frechet_distance")
    assert found.values == [3.0, 5.0] and found.missing == {1: "not run"}
    first = found.sources[0]
    run = next(run for run in study.plan.runs if run.label == "plain" and run.seed == 0)
    assert (first.run, first.seed, first.metric) == (run.key, 0, FD)
    assert first.stages == {"score": run.stages["score"]} and first.code == "0.1.0+abc"
    assert study.evidence.numbers("theirs", "probe/accuracy").values == []


def test_a_number_that_is_none_does_not_count(study: Study) -> None:
    study.put("plain", FD, 3.0, math.nan, math.inf)
    found = study.evidence.numbers("plain", "score/{extractor}/frechet_distance")
    assert found.values == [3.0] and found.missing == {1: "not a number", 2: "not a number"}


def test_a_number_of_another_configuration_does_not_count(study: Study) -> None:
    """MLflow says that its probe was another job than the plan's: a cell never mixes the two."""
    study.put("plain", "probe/accuracy", 0.5, 0.6, 0.7)
    study.stored.tags[study.keys("plain")[1]] = {"star.key.probe": "0123456789abcdef"}
    found = study.evidence.numbers("plain", "probe/accuracy")
    assert found.values == [0.5, 0.7] and found.missing == {1: "tracked of another configuration"}


def test_a_seed_counts_once(study: Study) -> None:
    study.put("plain", "probe/accuracy", 0.5, 0.6, 0.7)
    study.plan.runs.append(replace(study.plan.runs[0], key=study.keys("a & b_1")[0]))
    found = Evidence(study.plan, None, study.stored).numbers("plain", "probe/accuracy")
    assert [source.seed for source in found.sources] == [0, 1, 2] and found.values == [0.5, 0.6, 0.7]


def test_own_metrics_are_formulas(study: Study) -> None:
    study.put_curve("plain", "probe/accuracy_by_position", {1: 0.4, 2: 0.75, 3: 0.5}, {1: 0.2}, {})
    found = study.evidence.numbers("plain", "drop")
    assert found.values == pytest.approx([25.0, 0.0]) and found.missing == {2: "not run"}
    study.put("plain", "probe/accuracy", 0.5, 0.5)
    study.put("plain", "attention/distance", 2.0, 0.0)
    ratio = study.evidence.numbers("plain", "ratio")
    assert ratio.values == [0.25] and ratio.missing == {1: "not a number", 2: "not run"}
    assert set(ratio.sources[0].stages) == {"probe", "attention"}


def test_a_number_that_others_logged(study: Study) -> None:
    study.put("plain", "my/score", 1.0, 2.0)
    found = study.evidence.numbers("plain", "mlflow:my/score")
    assert found.values == [1.0, 2.0] and found.missing == {2: "not tracked"}
    assert found.sources[0].stages == {} and found.sources[0].code == "not ours"


@pytest.mark.parametrize("at", ["last", "min", "max", "mean", "3/4", "10"])
@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_a_curve_that_diverged_is_not_read_before_its_end(study: Study, at: str, end: float) -> None:
    study.put_curve("plain", "train/ar_loss", {1: 9.0, 2: end, 10: end}, {1: 4.0, 2: 4.0, 10: 4.0})
    found = study.evidence.numbers("plain", f"train/ar_loss@{at}")
    assert found.values == [4.0] and found.missing[0] == "not a number"


def test_a_seed_without_the_step_of_the_others_is_said(study: Study) -> None:
    """It ended early: the mean is of the others, and the cell says so. A row of which no seed has it cannot have it."""
    study.put_curve("plain", "train/ar_loss", {5: 5.0, 10: 4.0}, {5: 5.0}, {5: 5.0, 10: 3.0})
    study.put_curve("a & b_1", "train/ar_loss", *[{5: 5.0}] * 3)
    evidence = study.evidence
    done = {run.stages["train"]: SimpleNamespace(state=DONE, stage="train") for run in study.plan.runs}
    evidence.__dict__["jobs"] = done
    found = evidence.numbers("plain", "train/ar_loss@10")
    assert (found.values, found.missing) == ([4.0, 3.0], {1: "no such step"})
    none = evidence.numbers("a & b_1", "train/ar_loss@10")
    assert (none.values, none.missing, none.idle) == ([], {}, True)


def test_a_curve_is_asked_for_once(study: Study) -> None:
    for label in ("plain", "a & b_1", "c|d"):
        study.put_curve(label, "probe/accuracy_by_position", {1: 0.4, 3: math.nan})
    evidence = study.evidence
    for label in ("plain", "a & b_1", "c|d"):
        assert evidence.curve(label, "probe/accuracy_by_position") == {0: {1: 0.4}}
    assert study.stored.questions == 1


def test_what_seeds_share_is_one_measurement(study: Study) -> None:
    """The tokenizer has no seed: three runs hold one number of it."""
    study.put("plain", "invariance/change_rate", 0.3, 0.3, 0.3)
    study.put_curve("plain", "invariance/change_rate_by_shift", *[{1: 0.3}] * 3)
    found = study.evidence.numbers("plain", "invariance/change_rate")
    assert found.values == [0.3] and found.missing == {}
    assert len(study.evidence.curve("plain", "invariance/change_rate_by_shift", unfinished=True)) == 1


def test_a_curve_counts_when_its_job_has_ended(study: Study) -> None:
    study.put_curve("plain", "train/ar_loss", {1: 5.0, 10: 4.0}, {1: 5.0, 10: 4.0})
    study.stored.tags[study.keys("plain")[0]] = {"star.provenance.train": "{}"}  # as before its result is there
    found = study.evidence.numbers("plain", "train/ar_loss@last")
    assert found.values == [4.0] and set(found.missing) == {0, 2}
    assert set(study.evidence.curve("plain", "train/ar_loss")) == {1}
    assert set(study.evidence.curve("plain", "train/ar_loss", unfinished=True)) == {0, 1}


def test_given_images_have_no_training(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (28, 28)).save(tmp_path / "images" / f"{i}.png")
    samples = STUDY.replace("paper_only: true", f"spec: {{generate: {{samples: {tmp_path / 'images'}}}}}")
    study = Study(tmp_path, samples + TABLE)
    study.put("theirs", FD, 4.0)
    study.put("theirs", "probe/accuracy", 0.5)  # whoever logged that
    assert study.evidence.numbers("theirs", "score/{extractor}/frechet_distance").values == [4.0]
    probe = study.evidence.numbers("theirs", "probe/accuracy")
    assert probe.idle and probe.values == [] and probe.missing == {}
