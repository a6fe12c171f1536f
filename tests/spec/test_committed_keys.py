"""The keys of the committed experiments: what they were before outside data got manifests, but where a result changed on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from star.data.places import FASHION_MNIST
from star.spec.keys import run_key, stage_keys
from star.spec.load import load
from tests.helpers import ROOT

KEPT: dict[str, dict[str, dict[str, str]]] = json.loads((Path(__file__).parent / "committed_keys.json").read_text())
CHANGED = {"tokenizer", "encode", "train", "generate", "score", "probe", "attention", "invariance"}
"""Of ImageNet: its views come in torchvision's order, its samples are drawn and resized as LlamaGen's, and what is measured on a part
of its test images is measured on all classes. None was ever published."""


@pytest.mark.parametrize("name", KEPT)
def test_keys_of_committed_experiments(name: str) -> None:
    experiment, profile = name.split("@")
    found = load(ROOT / "experiments" / f"{experiment}.yaml", profile)
    sources = {"data": FASHION_MNIST if profile == "fashion" else "absent"}
    runs = {f"{v.label} · seed {run.seed}": run for v in found.variants for run in v.runs}
    assert runs.keys() == KEPT[name].keys()
    for label, spec in runs.items():
        given = {
            source: "absent"
            for source, path in (("tokenizer", spec.tokenizer.weights), ("reference", spec.score.reference))
            if path
        }
        keys, before = stage_keys(spec, sources | given), KEPT[name][label]
        changed = {stage for stage in before if keys[stage] != before[stage]}
        allowed = CHANGED if spec.data.name != "fashion-mnist" else set()
        assert changed == allowed & before.keys(), f"{name}: {label}"
        if not allowed:  # a stage that follows from the others gives no run another key
            assert run_key(spec, keys) == run_key(spec, before), f"{name}: {label}"
