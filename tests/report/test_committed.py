"""What README and docs/results.md say of the committed reports still holds when they are measured again."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import t

from star.report.block import Block
from star.report.method import judge_by
from star.report.stats import Interval, Sample
from tests.helpers import ROOT


def cells(column: str, experiment: str = "star_vs_baseline") -> dict[str, dict[int, float]]:
    """Row -> seed -> value of a column; of the comparison of ST-AR with its baselines, unless said."""
    text = (ROOT / "reports" / experiment / "fashion" / "provenance.json").read_text()
    runs = json.loads(text)["runs"]
    return {
        cell["row"]: {runs[source["run"]]["seed"]: source["value"] for source in cell["sources"]}
        for cell in json.loads(text)["cells"]
        if cell["column"] == column
    }


def difference(
    column: str, row: str, other: str, scale: float = 1.0, experiment: str = "star_vs_baseline", seeds: int = 3
) -> Interval:
    """As the report judges it: by the experiment's interval, `block`."""
    found = cells(column, experiment)
    assert all(len(values) == seeds for values in found.values())
    samples = [
        Sample(sign, list(found[name].values()), list(found[name]), name) for sign, name in ((1.0, row), (-1.0, other))
    ]
    return judge_by("block", samples, Block(found)).interval().times(scale)


def readme() -> str:
    return " ".join((ROOT / "README.md").read_text().split())


def results() -> str:
    return " ".join((ROOT / "docs" / "results.md").read_text().split())


def ends(found: Interval, digits: int) -> str:
    assert found.low is not None and found.high is not None
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def either_way(found: Interval) -> str:
    """An interval that holds zero, of a number that is positive where FD is lower."""
    assert found.low is not None and found.high is not None and found.low < 0 < found.high
    return f"{found.high:.0f} lower to {-found.low:.0f} higher"


def test_what_is_said_of_st_ars_probe() -> None:
    text, light = results(), "ST-AR, mask ratio 0.05"
    literal = difference("Probe %", "ST-AR", "baseline", 100)
    assert f"is {literal.estimate:.1f} points higher than the baseline's (95% interval {ends(literal, 1)})" in text
    gain, more = (difference("Probe %", light, row, 100) for row in ("baseline", "baseline, two views"))
    assert f"the probe is {gain.estimate:.1f} points higher than the baseline's ({ends(gain, 1)})" in text
    assert f"{more.estimate:.1f} higher than that of the baseline which sees as many codes ({ends(more, 1)})" in text
    assert (
        f"the probe is {gain.estimate:.1f} points higher than the baseline's (95% interval {ends(gain, 1)})" in readme()
    )
    two = "a baseline with two views, which trains on as many codes as ST-AR"
    assert f"{more.estimate:.1f} higher than that of {two} ({ends(more, 1)})" in readme()
    report = (ROOT / "reports" / "star_vs_baseline" / "fashion" / "report.md").read_text()
    bold, plain = (f"+{one.estimate:.2f} \\[+{one.low:.2f}, +{one.high:.2f}\\]" for one in (gain, more))
    assert f"**{bold}**" in report and f"| {plain} |" in report, (
        "over all comparisons the first stands, the second does not"
    )
    assert (literal.low or 0) < 0 < (gain.low or 0) and (more.low or 0) > 0, "what is decided, and what is not"


def test_what_is_said_of_the_distance() -> None:
    """Lower is a positive number there."""
    text, light = results(), "ST-AR, mask ratio 0.05"
    literal, gain, more = (
        difference("FD", other, row)
        for other, row in (("baseline", "ST-AR"), ("baseline", light), ("baseline, two views", light))
    )
    assert f"its FD {literal.estimate:.0f} lower ({either_way(literal)})" in text
    assert f"FD is {gain.estimate:.0f} lower than the baseline's ({ends(gain, 0)})" in text
    assert f"as low as that of two views ({more.estimate:.0f} lower; {either_way(more)})" in text
    assert f"FD is {gain.estimate:.0f} lower than the baseline's ({ends(gain, 0)})" in readme()
    nll, full = (difference("Validation NLL", row, "baseline, two views") for row in (light, "ST-AR"))
    assert f"with the light mask it is {nll.estimate:.2f} higher than that of the baseline with two views" in text
    assert f"with the paper's mask {full.estimate:.2f} higher" in text


def test_what_is_said_of_the_claims() -> None:
    verdicts: dict[str, str] = {}
    for path in (ROOT / "reports").glob("*/fashion/claims.json"):
        verdicts |= {claim["id"]: claim["verdict"] for claim in json.loads(path.read_text())["claims"]}
    assert len(verdicts) == 11
    decided = {name: verdict for name, verdict in verdicts.items() if verdict != "undecided"}
    assert decided == {"mask-ratio-sfid": "supported", "mask-ratio-optimum": "contradicted"}
    assert Counter(verdicts.values())["undecided"] == 9 and "nine are undecided" in results()
    assert "one is supported, one is contradicted and nine are undecided" in readme()


def test_what_is_said_of_more_seeds() -> None:
    """The bounds are those of the looks at which the claims were decided."""
    text, parts = results(), {}
    for path in (ROOT / "reports" / "more_seeds").glob("*/fashion/claims.json"):
        for claim in json.loads(path.read_text())["claims"]:
            parts |= {(claim["id"], part["text"]): part for part in claim["parts"]}
            parts[claim["id"], "verdict"] = (claim["verdict"], (claim["look"] or {"seeds": 3})["seeds"])

    def said(claim: str, part: str, scale: float, digits: int) -> tuple[str, str]:
        low, high = sorted(abs(scale * one) for one in parts[claim, part]["interval"])
        return f"{abs(scale * parts[claim, part]['estimate']):.{digits}f}", f"({low:.{digits}f} to {high:.{digits}f})"

    assert (
        parts["view-over-step", "verdict"] == ("contradicted", 8)
        and "contradicted](../reports/more_seeds/table3/fashion/report.md) after 8 seeds" in text
    )
    assert "it adds {} points less {}".format(*said("view-over-step", "MIM + view > MIM + step", 100, 1)) in text
    assert parts["all-losses-best-probe", "verdict"] == ("contradicted", 12)
    assert text.count("contradicted](../reports/more_seeds/table3/fashion/report.md) after 12 seeds") == 1
    best = said("all-losses-best-probe", "MIM + step + view (ST-AR) > MIM + step", 100, 1)
    assert "the probe is {} points higher than with all three {}".format(*best) in text
    assert parts["wider-attention", "verdict"] == ("undecided", 12) and "after 8 seeds ST-AR looks" in text
    far = said("wider-attention", "ST-AR > baseline", 1, 1)
    assert f"{far[0]} cells farther" in text and far[1] in text
    share = parts["wider-attention", "ST-AR < baseline"]
    low, high = (100 * one for one in share["interval"])
    assert f"is {-100 * share['estimate']:.0f} points lower ({-low:.0f} lower to {high:.0f} higher)" in text
    table = (ROOT / "reports" / "more_seeds" / "table3" / "fashion" / "report.md").read_text()
    (gain,) = re.findall(r"^\| MIM \+ step \|.*\*\*\+([\d.]+) \\\[[^|]*\|$", table, re.MULTILINE)
    assert f"MIM with the inter-step loss has the largest gain of the table, {float(gain):.1f} points" in text
    assert parts["half-depth-best", "verdict"] == ("contradicted", 12)
    assert "contradicted](../reports/more_seeds/table5/fashion/report.md) after 12 seeds" in text
    lower = said("half-depth-best", "depth 1/2 < depth 3/4", 1, 1)
    assert "at three quarters of the depth FD is {} lower {}".format(*lower) in text
    assert parts["more-steps-better", "verdict"] == ("supported", 8)
    assert "supported](../reports/more_seeds/table6/fashion/report.md) after 8 seeds" in text
    line = "decreasing over num_positions=2, num_positions=4, num_positions=8, num_positions=16"
    assert "from 2 to 16 FD falls by {} {}".format(*said("more-steps-better", line, 1, 1)) in text
    between = [part["verdict"] for (claim, at), part in parts.items() if claim == "more-steps-better" and "<" in at]
    assert between == ["undecided"] * 3
    longer = "LlamaGen-XL + ST-AR, 50 epochs < 1.05 x LlamaGen-3B†, 300 epochs"
    assert parts["st-ar-beats-longer-baseline", "verdict"] == ("supported", 3)
    assert "decided: {} below that bound {}".format(*said("st-ar-beats-longer-baseline", longer, 1, 0)) in text
    counts = Counter(value[0] for (_, part), value in parts.items() if part == "verdict")
    assert counts == {"contradicted": 3, "supported": 2, "undecided": 4}, "and table 4's two, of three seeds"
    assert "four claims are contradicted, three are supported and four are open" in text
    assert "up to twelve seeds, five more are decided, two for the paper and three against it" in readme()
    told = (ROOT / "reports" / "more_seeds" / "table1" / "fashion" / "report.md").read_text()
    xl, larger = (
        next(line for line in told.splitlines() if line.startswith(f"| {row} |")).split("|")[5].strip("* ").split()[0]
        for row in ("LlamaGen-XL + ST-AR", "LlamaGen-3B†")
    )
    assert f"an sFD of {float(xl):.0f} against {float(larger.rstrip('*')):.0f}" in text


def test_what_is_said_of_the_probe_at_every_step() -> None:
    text = results()
    found = json.loads((ROOT / "reports" / "more_seeds" / "figure4" / "fashion" / "claims.json").read_text())["claims"]
    late, every = sorted(found, key=lambda claim: claim["id"] == "probe-every-step")
    assert {claim["look"]["seeds"] for claim in found} == {5} and {claim["verdict"] for claim in found} == {"undecided"}
    wanted = [int(re.findall(r"about (\d+) seeds", claim["note"])[0]) for claim in (late, every)]
    assert all(f"{count} seeds would be needed" in text for count in wanted)
    assert text.count("given up](../reports/more_seeds/figure4/fashion/report.md) after 5 seeds") == 2
    at = {
        (part["text"].split(", ")[1][:3], part["metric"].rpartition("@")[2]): [
            100 * one for one in (part["estimate"], *part["interval"])
        ]
        for part in every["parts"]
    }
    first, last, usual = at["300", "8"], at["300", "64"], at["50 ", "64"]
    assert f"is {-first[0]:.1f} points behind ({-first[1]:.1f} behind to {first[2]:.1f} ahead)" in text
    assert f"it is {last[0]:.1f} points ahead ({last[1]:.1f} to {last[2]:.1f})" in text
    assert f"with the usual steps {usual[0]:.1f} ({usual[1]:.1f} to {usual[2]:.1f})" in text


@pytest.mark.parametrize("experiment", ["table4", "star_vs_baseline"])
def test_the_committed_tables_are_shown(experiment: str) -> None:
    text = (ROOT / "reports" / experiment / "fashion" / "report.md").read_text()
    rows = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)[0]
    assert len(rows.splitlines()) > 3 and rows in (ROOT / "docs" / "results.md").read_text()


def test_the_readme_can_be_read() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 140


def test_what_is_said_of_the_search() -> None:
    report = " ".join((ROOT / "reports" / "alpha_beta_r" / "fashion" / "report.md").read_text().split())
    found = re.search(r"^.*? (\d+) trials .*better by ([\d.]+) .*within the noise of seeds", report)
    assert found and f"{found[1]} trials and 12 repetitions" in results()
    assert f"probe {float(found[2]):.1f} points higher, which is within the noise" in results()
    told = re.search(r"better by [\d.]+ \(98.3% interval ([-\d.]+) to ([-\d.]+)\)", report)
    assert told and f"98.3% interval {float(told[1]):.1f} to {float(told[2]):.1f}" in results()
    with (ROOT / "reports" / "alpha_beta_r" / "fashion" / "confirmed.csv").open() as file:
        ratios = [float(row["mask ratio"]) for row in csv.DictReader(file)]
    assert ratios[0] == 0.25 and max(ratios[1:]) < 0.06
    with (ROOT / "reports" / "probe_and_fd" / "fashion" / "top.csv").open() as file:
        front = [
            {name: float(row[name]) for name in ("mask ratio", "Probe %", "FD")}
            for row in csv.DictReader(file)
            if row["mask ratio"]
        ]
    best = min(front, key=lambda row: row["FD"])
    assert best["mask ratio"] == 0.05 and max(row["Probe %"] for row in front) - best["Probe %"] == pytest.approx(
        0.5, abs=0.05
    )


def test_what_is_said_of_the_mask() -> None:
    with (ROOT / "reports" / "mask" / "fashion" / "table.csv").open() as file:
        rows = {
            row["row"]: [
                float(row[name]) for name in list(row) if name in ("Loss with the mask", "Validation NLL without it")
            ]
            for row in csv.DictReader(file)
        }
    text = " ".join((ROOT / "docs" / "evaluation.md").read_text().split())

    def added(codes: int, ratio: str) -> tuple[str, ...]:
        pairs = zip(rows[f"{codes} codes, {ratio}"], rows[f"{codes} codes, nothing hidden"], strict=True)
        return tuple(f"{one - other:.2f}" for one, other in pairs)

    assert "of 256 codes adds {} nats a code".format(added(256, "0.25")[0]) in text
    assert "and {} to the validation NLL without a mask".format(added(256, "0.25")[1]) in text
    for said, ratio in (("Of 64 codes a quarter adds", "0.25"), ("a tenth", "0.1"), ("a twentieth", "0.05")):
        assert "{} {} and {}".format(said, *added(64, ratio)) in text


def of_the_bench(column: str, row: str, other: str = "AR", scale: float = 1.0) -> Interval:
    return difference(column, row, other, scale, "objectives", 5)


def equal_cost(column: str, row: str, digits: int, scale: float = 1.0) -> str:
    """Mean over seeds and half of its t interval, as docs/objectives.md says it."""
    values = np.array(list(cells(column, "objectives")[row].values())) * scale
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def test_what_is_said_of_the_bench() -> None:
    text = " ".join((ROOT / "docs" / "objectives.md").read_text().split())
    light, fd, probe = "ST-AR, mask ratio 0.05", "FD above the floor", "Probe %"
    for row in ("ST-AR + codebook", "ST-AR + foresight", light):
        assert f"{row} by {-of_the_bench(fd, row).estimate:.0f}" in text
        assert f"{row} by {equal_cost('at equal FLOPs', row, 0)}" in text
    assert f"two views by {equal_cost('at equal FLOPs', 'two views', 0)}" in text
    assert f"AR trained twice as long is {-of_the_bench(fd, 'AR 2x').estimate:.0f} lower" in text
    for row, other in ((light, "AR"), (light, "two views"), ("ST-AR + foresight", light)):
        gain = of_the_bench(probe, row, other, 100)
        assert f"{gain.estimate:.1f} ({ends(gain, 1)})" in text, (row, other)
    for row in (light, "foresight (Mirai-E)", "ST-AR + foresight"):
        assert f"at equal operations {equal_cost('at equal FLOPs, points', row, 1, 100)}" in text, row
    behind = {row: of_the_bench(fd, row).estimate for row in ("order (RAR)", "registers (MuToR-2D)", "dropout 0.2")}
    order, registers, dropout = (f"{value:.0f}" for value in behind.values())
    assert f"ends {order} behind" in text and f"is {registers} behind; dropout of 0.2 is {dropout} behind" in text
    means = {
        column: {row: np.mean(list(one.values())) for row, one in cells(column, "objectives").items()}
        for column in (fd, probe)
    }
    repa, mirai, longest = (means[fd][row] for row in ("align-lite2 (REPA)", "align-lite2 (Mirai-I)", "AR 5x"))
    assert f"has {repa:.0f} and {mirai:.0f} where AR with five times has {longest:.0f}" in text
    assert f"({100 * means[probe]['AR 5x']:.1f}% and {100 * means[probe]['align-lite2 (REPA)']:.1f}%)" in text
    lower = [f"{-of_the_bench(probe, row, 'AR', 100).estimate:.1f}" for row in ("tcr", "codebook")]
    assert f"lower the probe, by {lower[0]} and {lower[1]}" in text
    assert f"highest mean probe, {100 * means[probe]['ST-AR + foresight']:.1f}%" in text
    assert f"between two and four by {-of_the_bench(fd, 'AR 4x', 'AR 2x').estimate:.0f}" in text
    for row, values in cells("at equal FLOPs", "objectives").items():
        if len(values) == 5:
            mean, half = (float(one) for one in equal_cost("at equal FLOPs", row, 3).split(" ± "))
            assert mean + half > 0, f"{row}: ahead of AR at equal operations, and the page says that none is"
