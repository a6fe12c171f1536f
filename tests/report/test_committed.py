"""What the README says of the committed reports still holds when they are measured anew."""

from __future__ import annotations

import json
import re

from star.report.stats import Sample, contrast
from tests.helpers import ROOT


def probe_accuracies() -> dict[str, list[float]]:
    """Row -> probe accuracy of each seed, of the comparison of ST-AR with its baselines."""
    text = (ROOT / "reports" / "star_vs_baseline" / "fashion" / "provenance.json").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["column"] == "Probe %"]
    return {cell["row"]: [source["value"] for source in cell["sources"]] for cell in cells}


def test_what_the_readme_says_of_st_ars_probe() -> None:
    found = probe_accuracies()
    assert all(len(values) == 3 for values in found.values())
    text = " ".join((ROOT / "README.md").read_text().split())
    gain, more = (
        contrast([Sample(100, found["ST-AR"]), Sample(-100, found[row])]) for row in ("baseline", "baseline, two views")
    )
    assert gain.low is not None and gain.high is not None and more.low is not None and more.high is not None
    assert f"is {gain.estimate:.1f} points higher than the baseline's" in text
    assert f"(95% interval {gain.low:.1f} to {gain.high:.1f}) and {more.estimate:.1f} higher than" in text
    assert f"sees as many codes ({more.low:.1f} to {more.high:.1f}): three seeds do not tell" in text
    assert more.low < 0 < more.high and gain.low < 0, "neither is decided"


def test_what_the_readme_says_of_the_claims() -> None:
    verdicts: dict[str, str] = {}
    for path in (ROOT / "reports").glob("*/fashion/claims.json"):
        verdicts |= {claim["id"]: claim["verdict"] for claim in json.loads(path.read_text())["claims"]}
    assert len(verdicts) == 11
    decided = {name: verdict for name, verdict in verdicts.items() if verdict != "undecided"}
    contradicted = dict.fromkeys(("mask-ratio-optimum", "view-over-step"), "contradicted")
    assert decided == {"mask-ratio-sfid": "supported", **contradicted}


def test_the_readme_shows_the_committed_tables() -> None:
    readme = (ROOT / "README.md").read_text()
    for experiment, shown in (("table4", 1), ("star_vs_baseline", 1)):
        text = (ROOT / "reports" / experiment / "fashion" / "report.md").read_text()
        for rows in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)[:shown]:
            assert len(rows.splitlines()) > 3 and rows in readme


def test_what_the_readme_says_of_the_search() -> None:
    report = " ".join((ROOT / "reports" / "alpha_beta_r" / "fashion" / "report.md").read_text().split())
    readme = " ".join((ROOT / "README.md").read_text().split())
    found = re.search(r"^.*? (\d+) trials .*better by ([\d.]+) .*within the noise of seeds", report)
    assert found and f"{found[1]} trials and 12 repetitions" in readme
    assert f"probe {float(found[2]):.1f} points higher, which is within the noise" in readme
