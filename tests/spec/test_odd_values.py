"""Values that are legal, and values that only a job would have refused: what is said of them before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from star.errors import DataError, SpecError
from star.pipeline import STAGES
from star.rundir import Home
from star.scheduler.inputs import ExternalInputs
from star.spec.graph import needed_of
from star.spec.keys import stage_keys
from star.spec.load import load
from star.spec.load_search import load_search
from tests.helpers import ROOT, TINY, tiny

SOURCES = dict.fromkeys(("data", "reference", "samples", "model", "tokenizer"), "given")


def remarks(**changes: Any) -> str:
    return "\n".join(tiny(**changes).remarks())


def key(stage: str, **changes: Any) -> str:
    return stage_keys(tiny(**changes), SOURCES)[stage]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__class_dropout_prob": 0.0}, "the null label is never trained"),
        ({"model__class_dropout_prob": 1.0, "generate__cfg_scale": 2.0}, "nothing to guide to"),
        ({"data__crop_range": 1.0}, "of ten views 2 are distinct"),
        ({"data__crop_range": 1.04}, "of ten views 8 are distinct"),
        ({"data__extra_crop_range": 1.1, "data__crop_range": 1.1}, "each view is there twice"),
        ({"selfguided__mask_ratio": 0.005}, "hides none"),
        ({"probe__base_lrs": [0.1, 0.1]}, "probe.base_lrs: 0.1, 0.1: one is there twice"),
        ({"invariance__shifts": [1, 1]}, "invariance.shifts: 1, 1: one is there twice"),
        ({"data__test_images": 1}, "1 held-out image has no spread"),
    ],
)
def test_what_is_probably_not_meant_is_said(changes: dict[str, Any], says: str) -> None:
    assert says in remarks(**changes)


def test_usual_values_are_not_remarked() -> None:
    assert remarks(data__crop_range=1.15, selfguided__mask_ratio=0.25) == ""
    assert "distinct" not in remarks(data__crop_range=1.0, selfguided__num_views=1, selfguided__inter_view=False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"resources__score": {"processes": 1000}}, "resources.score.processes"),
        ({"resources__reference": {"processes": 400_000}}, "resources.reference.processes"),
        ({"resources__train": {"memory_gb": 1e308}}, "less than or equal to 1000000"),
    ],
)
def test_what_would_fail_in_a_job_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        tiny(**changes)
    found = error.value.errors()[0]
    cause = (found.get("ctx") or {}).get("error")
    assert field in ".".join(getattr(cause, "path", ())) + found["msg"]


@pytest.mark.parametrize(
    ("stage", "one", "other"),
    [
        ("generate", {"generate__cfg_until": 5}, {"generate__cfg_until": 10}),
        ("generate", {"generate__cfg_scale": 2.0, "generate__cfg_until": 10_000}, {"generate__cfg_scale": 2.0}),
        ("generate", {"generate__top_k": 0}, {"generate__top_k": tiny().tokenizer.codebook_size}),
        ("train", {"selfguided__mask_when": "mim"}, {"selfguided__mask_when": "always"}),
        (
            "train",
            {"selfguided__projector_layers": 1, "selfguided__projector_hidden": 64},
            {"selfguided__projector_layers": 1, "selfguided__projector_hidden": 32},
        ),
    ],
)
def test_what_changes_nothing_is_computed_once(stage: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(stage, **one) == key(stage, **other)


def test_what_is_sampled_otherwise_now_has_another_key() -> None:
    """bf16, temperatures near zero, models without classes; of all other runs the former keys stand (test_committed_keys.py)."""
    versions = {
        name: STAGES["generate"].version_of(tiny(**changes))
        for name, changes in {
            "plain": {},
            "top_p": {"generate__top_p": 0.9},
            "bf16": {"generate__precision": "bf16"},
            "cold": {"generate__temperature": 1e-6},
            "unconditional": {"model__class_dropout_prob": 1.0},
        }.items()
    }
    assert versions == {"plain": 1, "top_p": 2, "bf16": 3, "cold": 3, "unconditional": 3}
    assert STAGES["train"].version_of(tiny()) == 1
    assert STAGES["train"].version_of(tiny(model__class_dropout_prob=1.0)) == 2


def written(folder: Path, text: str) -> Path:
    (folder / "profiles").symlink_to(ROOT / "tests" / "profiles")
    (folder / "one.yaml").write_text(text)
    return folder / "one.yaml"


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ("tcr: {weight: 1, temperature: .inf}", "terms.tcr.temperature"),
        ("cluster: {weight: 1, size: 32}", "puts all codes into one cluster"),
        ("order: {weight: 1, start: 0.0, end: 0.0}", "terms.order.end"),
        ("foresight: {weight: 1, start_at: 1.0, halve_at: 1.0}", "terms.foresight.start_at"),
    ],
)
def test_terms_that_do_nothing_are_refused(tmp_path: Path, terms: str, says: str) -> None:
    codes = tiny().tokenizer.codebook_size
    text = TINY.read_text().replace(
        "axes:", f"plugins: [objectives]\nbase: {{terms: {{{terms.replace('32', str(codes))}}}}}\naxes:"
    )
    with pytest.raises(SpecError, match=says):
        load(written(tmp_path, text))


@pytest.mark.parametrize("term", ["mtp", "foresight", "codebook", "tcr"])
def test_terms_want_more_than_one_code(tmp_path: Path, term: str) -> None:
    text = TINY.read_text().replace(
        "axes:",
        f"""plugins: [objectives]
base:
  data: {{image_size: 8}}
  tokenizer: {{channel_mult: [1, 1, 1, 1]}}
  selfguided: {{contrastive_weight: 0}}
  probe: {{positions: 1}}
  terms: {{{term}: {{weight: 1}}}}
axes:""",
    )
    with pytest.raises(SpecError, match=f"terms.{term}.*a 1 x 1 grid has one"):
        load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("metric", "base", "says"),
    [
        ("train/mim_loss@last", "selfguided: {mim_weight: 0}", "mim_weight is 0"),
        ("train/inter_view_loss@last", "selfguided: {inter_view: false}", "no inter-view loss"),
        ("train/ar_loss@100000", "selfguided: {}", "the training ends at step"),
        ("probe/accuracy_by_position@2", "probe: {positions: 1}", "it measures positions"),
    ],
)
def test_a_search_is_for_what_is_recorded(tmp_path: Path, metric: str, base: str, says: str) -> None:
    text = f"""
search: small
title: A search
profile: tiny
base: {{{base}}}
space: {{generate.temperature: {{low: 0.5, high: 1.5}}}}
objectives: [{{metric: {metric}, direction: minimize}}]
trials: 2
"""
    with pytest.raises(SpecError, match=says):
        load_search(written(tmp_path, text))


@pytest.mark.parametrize(
    ("images", "changes", "says"),
    [
        (2, {}, "too few for score.neighbours = 3"),
        (40, {"score__image_size": 16}, "score.image_size: 16, but the moments"),
        (40, {"score__image_size": 28}, ""),
    ],
)
def test_a_reference_file_is_looked_at_while_planning(
    tmp_path: Path, images: int, changes: dict[str, Any], says: str
) -> None:
    file, count = tmp_path / "reference.npz", 1280
    arrays = {"mu": np.zeros(count), "sigma": np.zeros((count, 1)), "mu_s": np.zeros(1), "sigma_s": np.zeros((1, 1))}
    np.savez(file, **arrays, arr_0=np.zeros((images, 28, 28, 3), np.uint8))
    spec = tiny(score__reference=str(file), **changes)
    outside = ExternalInputs(Home(tmp_path / "home"), needed_of(["score"], STAGES), [("a row", spec)], dict)
    if says:
        with pytest.raises(DataError, match=says):
            outside.of(spec)
    else:
        outside.of(spec)
