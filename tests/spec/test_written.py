"""The YAML that is kept of an experiment as it was run gives the same runs again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star.spec.keys import Keys, run_key
from star.spec.load import load
from star.spec.yamldoc import MOST, dump, parse
from tests.helpers import ROOT

FILES = sorted(path for path in (ROOT / "experiments").glob("*.yaml") if not path.name.startswith("search"))


def written(experiment: Any, folder: Path) -> Path:
    for name, text in experiment.written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / f"{experiment.name}.yaml"


def keys(experiment: Any) -> list[str]:
    known = Keys()
    return [run_key(run, known.of(run, {"data": "x"})) for variant in experiment.variants for run in variant.runs]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "changes",
    [{}, {"seeds": [5, 7], "name": "another", "sets": ["optim.lr=1.0e-7", "generate.top_p=0.9"]}],
    ids=["as it is", "changed"],
)
def test_it_gives_the_same_experiment(file: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    first = load(file, **changes)
    again = load(written(first, tmp_path))
    assert keys(again) == keys(first) and (again.name, again.profile) == (first.name, first.profile)
    assert again.spec.table == first.spec.table and again.spec.claims == first.spec.claims
    if not changes:
        assert (tmp_path / f"{first.name}.yaml").read_text() == file.read_text(), "comments and all"


def test_a_profile_and_a_reference_from_elsewhere_come_along(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    text = (ROOT / "tests" / "tiny.yaml").read_text()
    (folder / "study.yaml").write_text("published_values: deep/values.yaml\n" + text)
    (folder / "deep" / "values.yaml").write_text("source: nobody\ntables: {}\n")
    (tmp_path / "large.yaml").write_text((ROOT / "tests" / "profiles" / "tiny.yaml").read_text())
    first = load(folder / "study.yaml", profile=str(tmp_path / "large.yaml"))
    file = written(first, tmp_path / "kept")
    again = load(file)
    assert again.profile == "large" and keys(again) == keys(first)
    assert again.spec.published_values == "values.yaml" and (file.parent / "values.yaml").is_file()


LETTERS = st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"])
LEAVES = st.none() | st.booleans() | st.integers(-MOST, MOST) | st.floats(allow_nan=False) | st.text(LETTERS)
NAMES = st.text("abc<x1e", min_size=1).filter(lambda key: key != "<<")
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
ODD = ["on", "no", "1e5", "1_000", "0x1f", "2020-01-01", "12:30", "~", "", "1.", "+1", ".5", "true", "NULL", "<<"]


@given(VALUES)
def test_what_is_dumped_is_read_back(value: object) -> None:
    assert parse(dump({"value": value}), "x").value == {"value": value}


@pytest.mark.parametrize("text", ODD)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert parse(dump([text]), "x").value == [text]
