"""The check that tells when a later commit is slower."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.benchmarks.growth import SLOWER, Curve, markdown, slower
from tests.helpers import ROOT


def known() -> dict[str, Any]:
    """What is in the repository."""
    found: dict[str, Any] = json.loads((ROOT / "reports" / "benchmarks" / "growth.json").read_text())
    return found


def test_a_power_law_has_its_exponent() -> None:
    sizes = [1, 2, 4, 8]
    curve = Curve("x", sizes, [3 * size**1.5 for size in sizes], "matrix", [size**2 for size in sizes])
    assert curve.told()["exponent"] == pytest.approx(1.5)
    assert curve.told()["operations"] == pytest.approx(2)


def test_a_slower_point_is_told() -> None:
    before, now = known(), known()
    assert slower(now, before) == []
    name = "a step against images"
    now["curves"][name]["seconds"][2] *= SLOWER + 0.05
    [line] = slower(now, before)
    assert line == f"{name}, {now['curves'][name]['sizes'][2]}: 1.35 times as long as before"


def test_a_slower_machine_is_not_a_slower_commit() -> None:
    before, now = known(), known()
    now["rates"] = {name: rate / 3 for name, rate in now["rates"].items()}
    for curve in now["curves"].values():
        curve["seconds"] = [3 * taken for taken in curve["seconds"]]
    assert slower(now, before) == []
    now["curves"]["a report against its runs"]["seconds"][0] *= 2
    assert len(slower(now, before)) == 1


def test_new_curves_and_sizes_have_nothing_to_be_compared_with() -> None:
    before = known()
    now = copy.deepcopy(before)
    del before["curves"]["a step against views"]
    before["curves"]["a step against layers"]["sizes"][0] = 3
    for curve in now["curves"].values():
        curve["seconds"] = [2 * taken for taken in curve["seconds"]]
    told = slower(now, before)
    assert len(told) == sum(len(curve["sizes"]) for curve in before["curves"].values()) - 1


def test_the_page_holds_the_table_that_was_measured() -> None:
    table = markdown(known())
    assert (ROOT / "reports" / "benchmarks" / "growth.md").read_text() == table
    assert table in (ROOT / "docs" / "benchmarks.md").read_text()
