"""Rows are ranked and compared where their images were scored alike, and a note says where they were not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from star.report.table import build_table
from star.spec.load import load
from tests.helpers import ROOT
from tests.report.stored import FD, STUDY, TABLE, Study
from tests.report.test_tables import filled


def test_rows_that_are_scored_otherwise_are_not_ranked(tmp_path: Path) -> None:
    text = (STUDY + TABLE).replace(
        "{selfguided: {mask_ratio: 0.5}}", "{selfguided: {mask_ratio: 0.5}, score: {input_size: 64}}"
    )
    study = filled(tmp_path, text)
    table = build_table(study.evidence)
    assert [row.cells[1].rank for row in table.rows] == [None] * 4
    assert table.rows[1].cells[1].differences and not table.rows[2].cells[1].differences
    assert any("compared only with rows scored alike: input_size (32, 64)." in note for note in table.notes)


def test_rows_with_fewer_images_are_not_compared(tmp_path: Path) -> None:
    """Fewer bias a distance upwards."""
    few = "{selfguided: {mask_ratio: 0.5}, generate: {num_images: 20}}"
    table = build_table(filled(tmp_path, (STUDY + TABLE).replace("{selfguided: {mask_ratio: 0.5}}", few)).evidence)
    assert [row.cells[1].rank for row in table.rows] == [None] * 4 and not table.rows[2].cells[1].differences
    assert any("compared only with rows scored alike: generate.num_images (" in note for note in table.notes)
    assert [row.cells[2].rank for row in table.rows[:2]] == [2, 1], "a probe sees none of them"


def test_a_row_without_a_number_is_no_other_way_of_scoring(tmp_path: Path) -> None:
    text = (STUDY + TABLE).replace(
        "{selfguided: {mask_ratio: 0.5}}", "{selfguided: {mask_ratio: 0.5}, score: {input_size: 64}}"
    )
    study = Study(tmp_path, text)
    study.put("plain", FD, 30.0, 31.0, 32.0)
    study.put("a & b_1", FD, 20.0, 20.0, 21.0)
    table = build_table(study.evidence)
    assert [row.cells[1].rank for row in table.rows[:2]] == [2, 1]
    assert "Best in bold, second best underlined." in table.notes
    assert not any("scored alike" in note for note in table.notes)


def test_a_formula_of_scores_says_how_they_were_made(tmp_path: Path) -> None:
    text = (STUDY + TABLE + 'metrics: {half: "[score/{extractor}/frechet_distance] / 2"}\n').replace(
        'metric: "score/{extractor}/frechet_distance"', "metric: half"
    )
    alike = build_table(filled(tmp_path, text).evidence)
    assert any("samples against" in note for note in alike.notes)
    (tmp_path / "b").mkdir()
    other = "{selfguided: {mask_ratio: 0.5}, score: {input_size: 64}}"
    table = build_table(filled(tmp_path / "b", text.replace("{selfguided: {mask_ratio: 0.5}}", other)).evidence)
    assert any("compared only with rows scored alike: input_size (32, 64)." in note for note in table.notes)
    assert "Best in bold, second best underlined." in table.notes, "the probe's column is ranked"


@pytest.mark.parametrize("profile", ["fashion", "fashion-gpu", "imagenet256"])
def test_rows_of_larger_images_are_scored_as_the_others(profile: str) -> None:
    """Table 1's, trained on 384 pixels: what they are scored at is what the others have."""
    runs = [variant.runs[0] for variant in load(ROOT / "experiments" / "table1.yaml", profile).variants]
    assert len({run.data.image_size for run in runs}) == 2
    assert len({run.compared_by("score") for run in runs}) == 1


def test_padded_images_are_not_compared_with_resized_ones() -> None:
    """Those that are resized fill more of their frame than those that are padded to 32 pixels."""
    experiment = load(ROOT / "experiments" / "table1.yaml", "fashion")
    runs = [variant.runs[0] for variant in experiment.variants]
    plain = {
        run.data.image_size: run.model_copy(update={"data": run.data.model_copy(update={"pad_to": None})})
        for run in runs
    }
    runs = list(plain.values())
    ways = {(json.loads(run.compared_by("score") or "")["data.enlarge"], run.data.image_size) for run in runs}
    assert ways == {("pad to 32", 32), ("resize", 48)}
