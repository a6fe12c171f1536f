"""What `--seeds auto` does next, from numbers that are written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from star.cli.auto import next_step
from star.report.block import Block, some_pairs
from star.report.rest import hours_per_seed
from star.spec.seeds import with_seeds
from tests.report.stored import FD, STUDY, Study

CLAIM = (
    "claims:\n  - {{id: it, text: It holds, that: [{{kind: less, metric: {metric}, row: plain, than: [{than}]}}]}}\n"
)


def auto(study: Study) -> Study:
    study.plan = replace(study.plan, experiment=with_seeds(study.experiment, {}))
    return study


def test_given_images_get_no_seeds(tmp_path: Path) -> None:
    """They are one measurement for ever: the claim stays open, and the command ends."""
    np.save(tmp_path / "theirs.npy", np.zeros((20, 28, 28, 3), np.uint8))
    row = f"  - label: given\n    spec: {{generate: {{samples: '{tmp_path / 'theirs.npy'}'}}}}\n"
    text = STUDY.replace("rows:\n", f"rows:\n{row}") + CLAIM.format(
        metric='"score/{extractor}/frechet_distance"', than="given"
    )
    study = auto(Study(tmp_path, text))
    study.put("plain", FD, 1.0, 2.0, 3.0)
    study.put("given", FD, 5.0)
    step = next_step(study.evidence, None)
    assert not step.counts and "given has 1 of the seeds that a look wants" in "\n".join(step.lines)


def test_a_training_that_rows_share_is_not_free(tmp_path: Path) -> None:
    text = STUDY.replace(
        "{selfguided: {mask_ratio: 0.5}}", "{selfguided: {mask_ratio: 0.25}, generate: {cfg_scale: 2}}"
    )
    study = auto(Study(tmp_path, text + CLAIM.format(metric="probe/accuracy", than='"a & b_1"')))
    for label in ("plain", "a & b_1", "c|d"):
        study.put(label, "train/cpu_hours", 10.0, 10.0, 10.0)
        study.put(label, "score/cpu_hours", 0.1, 0.1, 0.1)
        study.put(label, "tokenizer/cpu_hours", 7.0, 7.0, 7.0)
    assert study.plan.runs[3].stages["train"] == study.plan.runs[6].stages["train"]
    hours = hours_per_seed(study.evidence)
    assert hours == {label: pytest.approx(10.1) for label in ("plain", "a & b_1", "c|d")}, (
        "the tokenizer serves all seeds"
    )
    for label, shift in (("plain", 0.0), ("a & b_1", 0.1)):
        study.put(label, "probe/accuracy", *(shift + one for one in (0.1, 0.5, 0.7)))
    spent = 3 * 10.1 * 3 - 3 * 10 + 7
    assert not next_step(study.evidence, spent + 40).counts, "four more runs cost 40.4"
    assert next_step(study.evidence, spent + 41).counts["plain"] == 5


def test_typical_numbers_of_a_large_table_come_from_some_pairs() -> None:
    assert len(some_pairs(range(5))) == 10
    assert len(some_pairs(range(150))) < 250 and len(some_pairs(range(3000))) < 250
    rng = np.random.default_rng(0)
    shared = rng.normal(size=30)
    block = Block({str(i): dict(enumerate(map(float, shared + rng.normal(size=30)))) for i in range(300)})
    assert block.correlation == pytest.approx(0.5, abs=0.12)
