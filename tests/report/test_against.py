"""Metrics against other rows, seed by seed: by hand, and what is missing is said."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star.errors import SpecError
from star.report.against import interpolated
from star.report.grid import main_grid
from star.report.table import build_table
from star.spec.load import load
from tests.report.stored import FD, STUDY, Study

METRICS = """
metrics:
  double: "2 * [probe/accuracy]"
  cost: "[train/flops] + [attention/flops]"
against:
  gain: {value: probe/accuracy, rows: [plain]}
  times: {value: cost, rows: [plain], kind: ratio}
  twice: {value: double, rows: [plain]}
  equal: {value: probe/accuracy, rows: [plain, "c|d"], along: cost}
  fd: {value: "score/{extractor}/frechet_distance", rows: [plain]}
table:
  caption: Against
  published: table4
  columns:
    - {title: Row, label: true}
    - {title: Gain, metric: gain, scale: 100}
    - {title: Times, metric: times}
claims:
  - {id: gains, text: It gains, that: [{kind: greater, metric: twice, row: "a & b_1", than: ["c|d"]}]}
"""


def study(folder: Path) -> Study:
    found = Study(folder, STUDY + METRICS)
    for label, values in (("plain", (0.5, 0.6, 0.7)), ("a & b_1", (0.55, 0.7, 0.72)), ("c|d", (0.9, None, 0.8))):
        found.put(label, "probe/accuracy", *values)
        found.put(label, FD, *(100 * (value or 0) for value in values))
    return found


def test_a_difference_is_taken_seed_by_seed(tmp_path: Path) -> None:
    evidence = study(tmp_path).evidence
    gain = evidence.numbers("a & b_1", "gain")
    assert gain.values == pytest.approx([0.05, 0.1, 0.02]) and gain.seeds == [0, 1, 2]
    assert evidence.numbers("a & b_1", "twice").values == pytest.approx([0.1, 0.2, 0.04])
    assert evidence.numbers("a & b_1", "fd").values == pytest.approx([5.0, 10.0, 2.0])
    assert evidence.numbers("c|d", "gain").seeds == [0, 2] and set(evidence.numbers("c|d", "gain").missing) == {1}
    assert evidence.numbers("plain", "gain").idle and not evidence.numbers("plain", "gain").values, (
        "against itself: no number"
    )
    assert evidence.numbers("a & b_1", "gain").sources[0].stages, "the key of the job that it is from"


def test_flops_are_those_of_the_plan_and_none_of_a_stage_that_is_not_there(tmp_path: Path) -> None:
    found = study(tmp_path)
    evidence = found.evidence
    jobs = found.plan.jobs
    for run in evidence.runs("a & b_1"):
        planned = jobs[run.stages["train"]].flops
        assert planned > 0
        value = next(one.value for one in evidence.numbers("a & b_1", "cost").sources if one.seed == run.seed)
        assert value == planned + jobs[run.stages["attention"]].flops
    times = evidence.numbers("a & b_1", "times").values
    assert times[0] == pytest.approx(
        evidence.numbers("a & b_1", "cost").values[0] / evidence.numbers("plain", "cost").values[0]
    )
    assert evidence.numbers("plain", "times").values == [1.0, 1.0, 1.0]
    assert 1.2 < times[0] < 1.4, "per sequence, as both have two views: a teacher and a projector"


def test_a_row_is_set_against_rows_that_cost_as_much(tmp_path: Path) -> None:
    evidence = study(tmp_path).evidence
    cost = {label: evidence.numbers(label, "cost").values[0] for label in ("plain", "a & b_1", "c|d")}
    assert cost["plain"] < cost["a & b_1"] == cost["c|d"]
    equal = evidence.numbers("a & b_1", "equal")
    assert equal.values == pytest.approx([0.55 - 0.9, 0.72 - 0.8])
    assert equal.missing == {1: "c|d has none of seed 1"}


points = st.lists(
    st.tuples(st.floats(1.0, 1e6), st.floats(-1e3, 1e3)),
    min_size=2,
    max_size=6,
    unique_by=lambda point: round(math.log(point[0]), 2),
)


@given(points, st.floats(0.0, 1.0))
def test_lines_over_the_logarithm(found: list[tuple[float, float]], share: float) -> None:
    found = sorted(found)
    for place, value in found:
        assert interpolated(found, place, "cost") == pytest.approx(value, abs=1e-6)
    (left, low), (right, high) = found[:2]
    between = math.exp(math.log(left) + share * math.log(right / left))
    value = interpolated(found, between, "cost")
    assert value == pytest.approx(low + share * (high - low), abs=1e-5 * (1 + abs(high - low)))
    assert interpolated(found, found[0][0] * 0.9, "cost") == "cost is less than that of the rows to compare with"
    assert interpolated(found, found[-1][0] * 1.1, "cost") == "cost is more than that of the rows to compare with"


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("value: cost,", "value: times,", "against.times.value: 'times' is a comparison itself"),
        ("value: double", "value: probe/acuracy", "against.twice.value: 'probe/acuracy' is no result"),
        ("rows: [plain], kind", "rows: [plane], kind", "against.times.rows: 'plane' is no row"),
        ("along: cost", "along: dear", "against.equal.along: 'dear' is no result"),
        (", along: cost", "", "against.equal.along: several rows are interpolated"),
        ("  gain: {", "  cost: {", "against.cost: 'cost' is one of `metrics` too"),
        ("kind: ratio", "kind: product", "against.times.kind: 'product' is not legal; give one of difference, ratio"),
        ("[attention/flops]", "[generator/flops]", "'generator/flops' is no result"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = STUDY + METRICS
    assert text.count(old) == 1
    Study(tmp_path, text)
    (tmp_path / "study.yaml").write_text(text.replace(old, new))
    with pytest.raises(SpecError) as refused:
        load(tmp_path / "study.yaml")
    assert told in str(refused.value) and "study.yaml:" in str(refused.value), refused.value


def test_a_row_that_was_not_run_has_no_cost(tmp_path: Path) -> None:
    found = Study(tmp_path, STUDY + METRICS)
    found.put("plain", "probe/accuracy", 0.5, 0.6, 0.7)
    evidence = found.evidence
    assert evidence.numbers("plain", "cost").values and not evidence.numbers("a & b_1", "cost").values
    assert evidence.numbers("a & b_1", "times").missing == {0: "not run", 1: "not run", 2: "not run"}
    table = build_table(evidence)
    written = [mark for line in main_grid(table).lines for mark in line.cells]
    assert any("not run" in mark.text for mark in written)
