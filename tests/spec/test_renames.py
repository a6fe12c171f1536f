"""Fields under the names that they had before: read, explained, in the same keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.errors import SpecError
from star.pipeline import PIPELINE
from star.pipeline.config import RunSpec
from star.spec.keys import stage_keys
from star.spec.load import load
from star.spec.renames import as_now
from tests.helpers import ROOT, tiny

FILE = """experiment: old
title: Old names
reference: values.yaml
profile: {profile}
base: {{optim: {{until: 7}}, selfguided: {{lone_factor: 0.7, inter_view: false}}}}
rows:
  - {{label: ours}}
  - {{label: theirs, quoted: true}}
table: {{caption: c, columns: [{{title: P, metric: probe/accuracy}}]}}
"""


def write(folder: Path, text: str = FILE) -> Path:
    (folder / "values.yaml").write_text("source: nobody\ntables: {}\n")
    path = folder / "old.yaml"
    path.write_text(text.format(profile=ROOT / "tests" / "profiles" / "tiny.yaml"))
    return path


def test_old_names_are_read_and_explained(tmp_path: Path) -> None:
    experiment = load(write(tmp_path))
    ours, theirs = experiment.variants
    assert ours.runs[0].optim.stop_at_step == 7 and ours.runs[0].selfguided.single_contrastive_scale == 0.7
    assert theirs.row.paper_only and not theirs.runs
    assert [note.partition(";")[0] for note in experiment.notes] == [
        "optim.until is now optim.stop_at_step",
        "selfguided.lone_factor is now selfguided.single_contrastive_scale",
        "quoted of a row is now paper_only",
        "reference is now published_values",
    ]
    assert experiment.spec.published_values == "values.yaml"
    new = (
        FILE.replace("until", "stop_at_step")
        .replace("lone_factor", "single_contrastive_scale")
        .replace("quoted", "paper_only")
        .replace("reference", "published_values")
    )
    again = load(write(tmp_path, new))
    assert again.notes == () and again.variants[0].runs == ours.runs


def test_the_command_line_takes_them_too(tmp_path: Path) -> None:
    run = load(ROOT / "tests" / "tiny.yaml", sets=["optim.until=9", "selfguided.lone_factor=0.3"]).variants[0].runs[0]
    assert run.optim.stop_at_step == 9 and run.selfguided.single_contrastive_scale == 0.3


def test_both_names_at_once_are_refused(tmp_path: Path) -> None:
    both = FILE.replace("optim: {{until: 7}}", "optim: {{until: 7, stop_at_step: 8}}")
    with pytest.raises(
        SpecError, match=r"old.yaml:5: optim: until is the former name of stop_at_step; give one of them"
    ):
        load(write(tmp_path, both))


def test_a_record_under_old_names_gives_the_same_keys() -> None:
    new = tiny(optim__stop_at_step=7, selfguided__inter_view=False, selfguided__single_contrastive_scale=0.7)
    values = new.model_dump(mode="json")
    for old, path in PIPELINE.renamed.items():
        section, field = path.split(".")
        values[section][old.split(".")[1]] = values[section].pop(field)
    assert RunSpec.model_validate(values) == new
    now = as_now(values)
    assert now["optim"] == new.optim.model_dump(mode="json") and now["selfguided"] == new.selfguided.model_dump(
        mode="json"
    )
    assert as_now(now) is now and "until" in values["optim"], "what was given stays as it is"
    assert stage_keys(RunSpec.model_validate(values), {})["train"] == stage_keys(new, {})["train"]
    assert new.optim.identity()["until"] == 7 and new.selfguided.identity()["lone_factor"] == 0.7
    assert "until" not in tiny().optim.identity() and "stop_at_step" not in tiny().optim.identity()
