"""What a file or the command line asks for in vain is said: points that no row records, fields that are given twice or that vary."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.errors import SpecError
from star.spec.load import load
from star.spec.load_search import load_search
from tests.helpers import ROOT, TINY
from tests.spec.test_silence import HEAD, ROWS, compares, written


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["optim={lr: 0.2}", "optim.lr=0.3"], "optim.lr is given twice"),
        (["optim.lr=0.3", "optim={lr: 0.2, beta1: 0.8}"], "optim.lr is given twice"),
        (["selfguided={mask_ratio: 0.1}"], "selfguided.mask_ratio is what the rows vary"),
    ],
)
def test_a_section_of_the_command_line_is_its_fields(sets: list[str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load(TINY, sets=sets)
    assert load(TINY, sets=["selfguided={ema_decay: 0.5}", "selfguided.temperature=0.2"]).variants[0].runs[0]


def test_a_sweep_given_twice_is_given_once() -> None:
    once, twice = (load(TINY, sets=["optim.lr=[0.1, 0.2]"] * times) for times in (1, 2))
    assert [one.label for one in once.variants] == [one.label for one in twice.variants]


def test_what_a_search_varies_is_not_given_in_a_section() -> None:
    with pytest.raises(SpecError, match="selfguided.mim_weight is what the search varies"):
        load_search(ROOT / "tests" / "tiny_search.yaml", sets=["selfguided={mim_weight: 3}"])


def test_a_point_that_no_row_records_is_said(tmp_path: Path) -> None:
    """The probe measures four of 49 positions, and training ends at step 30: such a cell would stay empty for ever."""
    shown = "{title: A, metric: train/loss@31}, {title: B, metric: gap}, {title: C, metric: train/loss@30}"
    columns = f"table: {{caption: c, columns: [{shown}]}}\n"
    metrics = 'metrics: {gap: "[probe/accuracy] - [probe/accuracy_by_position@13]"}\n'
    claim = compares(kind="greater", metric="probe/accuracy_by_position@13", row="ours", than=["other"])
    notes = load(written(tmp_path, HEAD + ROWS.rpartition("  - ")[0] + columns + metrics + claim)).notes
    where = "no row records probe/accuracy_by_position@13; probe: it measures positions 12, 24, 37, 49"
    assert list(notes) == [
        "column A: no row records train/loss@31; optim: the training ends at step 30",
        f"column B: {where}",
        f"claim c: {where}",
    ]
