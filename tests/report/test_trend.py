"""Differences along axes: which rows are compared, the line through them, where it would be zero, and how that is shown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from star.errors import SpecError
from star.report import figures, write
from star.report.figures.style import close
from star.report.stats import Interval
from star.report.trend import Point, crossing_text, fit, is_logarithmic, pairs, trends
from star.report.trend_markup import trend_grids
from star.spec.reporting import TrendFigure
from tests.report.stored import FD, Study

TEXT = """
experiment: study
title: A study
profile: tiny
seeds: [0, 1]
interval: paired
one_at_a_time: true
base: {optim: {steps: 12}}
rows:
  - {label: base, spec: {selfguided: {mim_weight: 0, contrastive_weight: 0}}}
  - {label: "base, two", spec: {selfguided: {mim_weight: 0, contrastive_weight: 0, num_views: 3}}}
  - {label: ours}
axes:
  optim.steps: [6, 12, 24]
  selfguided.mask_ratio: [0.1, 0.25, 0.5]
table:
  caption: Trends
  columns:
    - {title: Row, label: true}
    - {title: Steps, spec: optim.steps}
    - {title: FD, metric: "score/{extractor}/frechet_distance", better: lower}
    - {title: Probe %, metric: probe/accuracy, better: higher, scale: 100}
figures:
  - {name: when, kind: trend, title: When, x: [optim.steps, selfguided.mask_ratio], row: ours, than: [base, "base, two"]}
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """ours - base falls by 10 with each doubling and is 0 at 24 steps; by the ratio it rises; the seeds differ by 1."""
    made = Study(tmp_path, TEXT)
    for steps, ahead in ((6, 20.0), (12, 10.0), (24, 0.0)):
        made.put(f"base, steps={steps}", FD, 100.0, 100.0)
        made.put(f"base, two, steps={steps}", FD, 90.0, 90.0)
        made.put(f"ours, steps={steps}, mask_ratio=0.25", FD, 100 + ahead - 0.5, 100 + ahead + 0.5)
    for ratio, ahead in ((0.1, 5.0), (0.5, 26.0)):
        made.put(f"ours, steps=12, mask_ratio={ratio}", FD, 100 + ahead - 0.5, 100 + ahead + 0.5)
    return made


def figure(study: Study) -> TrendFigure:
    found = study.experiment.spec.figures[0]
    assert isinstance(found, TrendFigure)
    return found


def test_each_row_is_compared_at_the_same_point(study: Study) -> None:
    variants = study.experiment.variants
    by_steps = [(a.label, b.label) for a, b in pairs(variants, "optim.steps", "ours", "base")]
    assert by_steps == [(f"ours, steps={n}, mask_ratio=0.25", f"base, steps={n}") for n in (6, 12, 24)]
    by_ratio = [(a.label, b.label) for a, b in pairs(variants, "selfguided.mask_ratio", "ours", "base, two")]
    assert by_ratio == [(f"ours, steps=12, mask_ratio={r}", "base, two, steps=12") for r in (0.1, 0.25, 0.5)]


def test_a_row_that_an_axis_does_not_change_is_compared_once(study: Study) -> None:
    """The other row stands at three mask ratios there: the one that belongs to its own line is taken."""
    found = [(a.label, b.label) for a, b in pairs(study.experiment.variants, "optim.steps", "base", "ours")]
    assert found == [(f"base, steps={n}", f"ours, steps={n}, mask_ratio=0.25") for n in (6, 12, 24)]


def test_trends_of_an_experiment(study: Study) -> None:
    found = {(t.axis, t.than): t for t in trends(figure(study), study.evidence) if t.column.title == "FD"}
    assert len(found) == 4
    steps = found["optim.steps", "base"]
    assert [(point.x, point.found.estimate, point.values) for point in steps.points] == [
        (6, 20.0, (19.5, 20.5)),
        (12, 10.0, (9.5, 10.5)),
        (24, 0.0, (-0.5, 0.5)),
    ]
    assert steps.points[0].found.low == pytest.approx(20 - 0.5 * stats.t.ppf(0.975, 1))
    assert steps.line is not None and steps.line.logarithmic and steps.line.slope.value == pytest.approx(-10)
    assert steps.line.rise().estimate == pytest.approx(-20)
    crossing = steps.line.crossing()
    assert crossing is not None and crossing.estimate == pytest.approx(24)
    ratio = found["selfguided.mask_ratio", "base"]
    assert ratio.line is not None and not ratio.line.logarithmic
    assert [point.x for point in ratio.points] == [0.1, 0.25, 0.5]


def test_the_table_below_the_figure(study: Study) -> None:
    grids = trend_grids(figure(study), study.evidence)
    heads = [[head.title for head in grid.heads] for grid in grids]
    assert heads == [
        ["by Steps", "6", "12", "24", "line, 6 to 24", "line fits, p", "0 at"],
        ["by mask ratio", "0.1", "0.25", "0.5", "line, 0.1 to 0.5", "line fits, p", "0 at"],
    ]
    first, second = ([mark.text for mark in line.cells] for line in grids[0].lines)
    assert first[:2] == ["FD, ours - base", "+20.00 [+13.65, +26.35]"]
    assert first[4].startswith("-20.00 [") and first[5] == "1.00" and first[6].startswith("24 [")
    assert second[6].endswith(", not measured there") and second[6].startswith("48 [")
    text = "\n".join(write.markdown(write.build(study.evidence)))
    assert "| by Steps | 6 | 12 | 24 |" in text and "F test of lack of fit" in text
    page = "\n".join(write.html(write.build(study.evidence), str))
    assert "<th>by Steps</th>" in page


def test_the_figure(study: Study) -> None:
    drawn = figures.draw(figure(study).model_copy(update={"columns": ["FD"]}), study.evidence, None)
    assert [axis.get_ylabel() for axis in drawn.axes] == ["FD↓, difference", ""]
    assert [axis.get_xscale() for axis in drawn.axes] == ["log", "linear"]
    assert [axis.get_xlabel() for axis in drawn.axes] == ["Steps", "mask ratio"]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["ours - base", "ours - base, two"]
    bar = drawn.axes[0].get_legend_handles_labels()[0][0]
    assert np.allclose(bar.lines[0].get_ydata(), [20, 10, 0])
    close(drawn)


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    empty = Study(tmp_path, TEXT)
    assert figures.draw(figure(empty), empty.evidence, None) is None
    assert trend_grids(figure(empty), empty.evidence) == []


def points(values: dict[float, tuple[float, ...]]) -> list[Point]:
    return [Point(x, Interval(sum(own) / len(own)), own) for x, own in values.items()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=9, max_size=9).filter(lambda values: np.ptp(values) > 0.1),
    st.booleans(),
)
def test_the_line_is_that_of_ordinary_least_squares(values: list[float], logarithmic: bool) -> None:
    xs = (1.0, 3.0, 16.0)
    line = fit(points({x: tuple(values[3 * i : 3 * i + 3]) for i, x in enumerate(xs)}), logarithmic)
    u = np.repeat([math.log2(x) if logarithmic else x for x in xs], 3)
    known = stats.linregress(u, values)
    if line is None:
        assert known.stderr < 1e-9 * 50
        return
    assert line.slope.value == pytest.approx(known.slope, abs=1e-9)
    assert line.slope.error == pytest.approx(known.stderr, rel=1e-6, abs=1e-9)
    zero = line.crossing()
    told = known.pvalue < 0.05
    assert (zero is not None) == told or known.pvalue == pytest.approx(0.05, abs=1e-9)
    if (
        zero is not None
        and zero.low is not None
        and zero.high is not None
        and 1e-6 < abs(zero.low) < 1e6
        and abs(zero.high) < 1e6
    ):
        assert line.at(zero.estimate).estimate == pytest.approx(0, abs=1e-6)
        for end in (zero.low, zero.high):  # at Fieller's ends the band touches zero
            band = line.at(end)
            assert band.low is not None and band.high is not None
            assert min(abs(band.low), abs(band.high)) < 1e-4 * (1 + abs(band.high - band.low))


def test_the_crossings_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, held, told = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        own = {x: tuple(rng.normal(40 - 10 * math.log2(x), 6, 3)) for x in (4.0, 8.0, 16.0, 32.0)}
        line = fit(points(own), logarithmic=True)
        zero = line.crossing() if line else None
        if zero is not None and zero.low is not None and zero.high is not None:
            told += 1
            held += zero.low <= 16 <= zero.high
    assert told > 1990 and held / told == pytest.approx(0.95, abs=0.015)


def test_what_cannot_be_told() -> None:
    two = fit(points({1.0: (1.0, 2.0), 2.0: (2.0, 3.0)}), logarithmic=True)
    same = fit(points({x: (1.0, 1.0) for x in (1.0, 2.0, 4.0)}), logarithmic=True)
    assert two is None and same is None and crossing_text(None) == ""
    flat = fit(points({1.0: (1.0, 2.0), 2.0: (2.0, 1.0), 4.0: (1.0, 2.1)}), logarithmic=True)
    assert crossing_text(flat) == "the slope may be 0"
    far = fit(points({1.0: (100.0, 100.1), 2.0: (99.0, 99.1), 4.0: (98.0, 98.1)}), logarithmic=True)
    assert crossing_text(far) == "far outside"
    bent = fit(points({1.0: (0.0, 0.1), 2.0: (5.0, 5.1), 4.0: (0.0, 0.1)}), logarithmic=True)
    assert bent is not None and bent.misfit is not None and bent.misfit < 0.001


def test_which_axes_are_logarithmic() -> None:
    assert (
        is_logarithmic([300, 600, 1200, 2400]) and is_logarithmic([1000, 60000, 10000]) and is_logarithmic([1e-3, 0.1])
    )
    assert not is_logarithmic([0.05, 0.15, 0.25, 0.45]) and not is_logarithmic([0, 1, 8]) and not is_logarithmic([])


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("x: [optim.steps,", "x: [optim.step,", "'optim.step' is no axis (did you mean optim.steps?)"),
        (
            "[0.1, 0.25, 0.5]",
            "[0.1, 0.25]",
            "a trend wants three numbers or more; selfguided.mask_ratio has [0.1, 0.25]",
        ),
        ("row: ours", "row: our", "'our' is no row"),
        ("than: [base,", "than: [ours,", "compares 'ours' with itself"),
        ("title: When,", "title: When, rows: [base],", "a trend names its rows in `row` and `than`"),
        ("title: When,", "title: When, columns: [FID],", "'FID' is no measured column"),
        (
            "steps: 12}",
            "steps: 13}",
            "with one_at_a_time the value that the row 'base' has otherwise, 13, is one of the axis's",
        ),
        ("  optim.steps: [6, 12, 24]\n", "", "one_at_a_time: is for several axes, and there are 1"),
    ],
)
def test_what_a_trend_cannot_show_is_refused(tmp_path: Path, was: str, now: str, says: str) -> None:
    assert was in TEXT
    with pytest.raises(SpecError) as error:
        Study(tmp_path, TEXT.replace(was, now))
    assert says in str(error.value) and "study.yaml:" in str(error.value)
