"""What the README says of the committed reports still holds when they are measured anew."""

from __future__ import annotations

import json
import re
from statistics import mean, stdev

from tests.helpers import ROOT


def probe_accuracies() -> dict[str, list[float]]:
    """Row -> probe accuracy of each seed, of the comparison of ST-AR with its baselines."""
    text = (ROOT / "reports" / "star_vs_baseline" / "fashion" / "provenance.json").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["column"] == "Probe %"]
    return {cell["row"]: [source["value"] for source in cell["sources"]] for cell in cells}


def test_st_ar_beats_both_baselines_at_the_last_position_by_more_than_the_spread() -> None:
    found = probe_accuracies()
    assert all(len(values) == 3 for values in found.values())
    for baseline in ("baseline", "baseline, two views"):
        assert mean(found["ST-AR"]) - mean(found[baseline]) > max(stdev(found["ST-AR"]), stdev(found[baseline]))
        assert all(ours > theirs for ours, theirs in zip(found["ST-AR"], found[baseline], strict=True)), "in every seed"


def test_the_readme_shows_the_committed_tables() -> None:
    readme = (ROOT / "README.md").read_text()
    for experiment, shown in (("table4", 1), ("star_vs_baseline", 1)):
        text = (ROOT / "reports" / experiment / "fashion" / "report.md").read_text()
        for rows in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)[:shown]:
            assert len(rows.splitlines()) > 3 and rows in readme
