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
from star.report.line import crossing_text, fit, is_logarithmic, number_text
from star.report.trend import pairs, trends
from star.report.trend_markup import comma_separated, trend_grids, trend_notes
from star.spec.reporting import TrendFigure
from tests.report.stored import FD, Study

TEXT = """
experiment: study
title: A study
profile: tiny
seeds: [0, 1, 2]
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


OFF = {6: (-0.5, 0.0, 0.5), 12: (-0.25, 0.0, 0.25), 24: (-0.5, 0.25, 0.25)}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """ours - base falls by 10 with each doubling and is 0 at 24 steps; with the mask ratio it rises."""
    made = Study(tmp_path, TEXT)
    for steps, ahead in ((6, 20.0), (12, 10.0), (24, 0.0)):
        made.put(f"base, steps={steps}", FD, 100.0, 100.0, 100.0)
        made.put(f"base, two, steps={steps}", FD, 90.0, 90.0, 90.0)
        made.put(f"ours, steps={steps}, mask_ratio=0.25", FD, *(100 + ahead + off for off in OFF[steps]))
    for ratio, ahead in ((0.1, 5.0), (0.5, 26.0)):
        made.put(f"ours, steps=12, mask_ratio={ratio}", FD, *(100 + ahead + off for off in OFF[6]))
    return made


def figure(study: Study) -> TrendFigure:
    found = study.experiment.spec.figures[0]
    assert isinstance(found, TrendFigure)
    return found


def test_each_row_is_compared_at_the_same_point(study: Study) -> None:
    variants = study.experiment.variants
    by_steps = [(a.label, b.label) for _, a, b in pairs(variants, "optim.steps", "ours", "base")]
    assert by_steps == [(f"ours, steps={n}, mask_ratio=0.25", f"base, steps={n}") for n in (6, 12, 24)]
    by_ratio = [(a.label, b.label) for _, a, b in pairs(variants, "selfguided.mask_ratio", "ours", "base, two")]
    assert by_ratio == [(f"ours, steps=12, mask_ratio={r}", "base, two, steps=12") for r in (0.1, 0.25, 0.5)]


def test_a_row_that_an_axis_does_not_change_is_compared_with_each(study: Study) -> None:
    """The other row stands at three mask ratios there: the one that belongs to its own line is taken."""
    variants = study.experiment.variants
    found = [(a.label, b.label) for _, a, b in pairs(variants, "optim.steps", "base", "ours")]
    assert found == [(f"base, steps={n}", f"ours, steps={n}, mask_ratio=0.25") for n in (6, 12, 24)]
    by_ratio = [(x, a.label, b.label) for x, a, b in pairs(variants, "selfguided.mask_ratio", "base", "ours")]
    assert by_ratio == [(r, "base, steps=12", f"ours, steps=12, mask_ratio={r}") for r in (0.1, 0.25, 0.5)]
    assert len(pairs(variants, "selfguided.mask_ratio", "base", "base, two")) < 3


def test_trends_of_an_experiment(study: Study) -> None:
    found = {(t.axis, t.than): t for t in trends(figure(study), study.evidence) if t.column.title == "FD"}
    assert len(found) == 4
    steps = found["optim.steps", "base"]
    assert [(point.x, point.found.estimate) for point in steps.points] == [(6, 20.0), (12, 10.0), (24, 0.0)]
    assert [tuple(point.values.values()) for point in steps.points] == [
        tuple(ahead + off for off in OFF[n]) for n, ahead in ((6, 20), (12, 10), (24, 0))
    ]
    assert steps.points[0].found.low == pytest.approx(20 - 0.5 / 3**0.5 * stats.t.ppf(0.975, 2))
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
        ["by Steps", "6", "12", "24", "line, first to last", "line fits, p", "0 at"],
        ["by mask ratio", "0.1", "0.25", "0.5", "line, first to last", "line fits, p", "0 at"],
    ]
    first, second = ([mark.text for mark in line.cells] for line in grids[0].lines)
    assert first[:2] == ["FD, ours - base", "+20.00 [+18.76, +21.24]"]
    assert first[4].startswith("-20.00 [") and first[5] == "1.00" and first[6].startswith("24 [")
    assert second[6].endswith(", not measured there") and second[6].startswith("48 [")
    text = "\n".join(write.markdown(write.build(study.evidence)))
    assert "| by Steps | 6 | 12 | 24 |" in text and "is the p of an F test" in text
    page = "\n".join(write.html(write.build(study.evidence), str, "study"))
    assert "<th>by Steps</th>" in page and "is the p of an F test" in page
    lines = comma_separated(study.evidence).splitlines()
    assert lines[0] == "axis,column,row,than,x,difference,low,high,n" and len(lines) == 1 + 12
    assert lines[1].startswith("optim.steps,FD,ours,base,6,20.0,18.7") and lines[1].endswith(",3")


def test_a_trend_that_is_not_whole_says_so(tmp_path: Path) -> None:
    part = Study(tmp_path, TEXT)
    for row in ("base", "base, two"):
        for steps in (6, 12, 24):
            part.put(f"{row}, steps={steps}", "probe/accuracy", 0.5, 0.5, 0.5)
    for steps in (6, 12):
        part.put(
            f"ours, steps={steps}, mask_ratio=0.25", "probe/accuracy", *((0.5, 0.6, 0.7) if steps == 6 else (0.5,))
        )
    drawn = figures.draw(figure(part), part.evidence, None)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["ours - base", "ours - base, two"]
    assert [tick.get_text() for tick in drawn.axes[-2].get_xticklabels()] == ["6", "12", "24"]
    close(drawn)
    ((line, _),) = [grid.lines for grid in trend_grids(figure(part), part.evidence)][:1]
    assert [mark.text for mark in line.cells][1:4] == ["+10.00 [-14.84, +34.84]", "+0.00", ""]
    assert any("Welch in place of paired" in note for note in trend_notes(figure(part), part.evidence))


def test_the_figure(study: Study) -> None:
    drawn = figures.draw(figure(study).model_copy(update={"columns": ["FD"]}), study.evidence, None)
    assert [axis.get_ylabel() for axis in drawn.axes] == ["FD↓,\ndifference", ""]
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


def points(values: dict[float, tuple[float, ...]]) -> dict[float, dict[int, float]]:
    return {x: dict(enumerate(own)) for x, own in values.items()}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=12, max_size=12).filter(lambda values: np.ptp(values) > 0.1),
    st.booleans(),
)
def test_the_line_is_least_squares_with_a_height_for_each_seed(values: list[float], logarithmic: bool) -> None:
    xs = (1.0, 3.0, 16.0, 40.0)
    y = np.array(values).reshape(4, 3)
    line = fit(points(dict(zip(xs, map(tuple, y), strict=True))), logarithmic)
    u = np.array([math.log2(x) if logarithmic else x for x in xs])
    off = u - u.mean()
    slope = float(off @ y.sum(1) / (3 * off @ off))
    left = float(np.square(y - y.mean(0) - slope * off[:, None]).sum())
    if line is None:
        assert left < 1e-12 or np.ptp(y.mean(0)) < 1e-12
        return
    assert line.slope.value == pytest.approx(slope, abs=1e-9) and line.slope.freedom == 8
    assert line.slope.error == pytest.approx(math.sqrt(left / 8 / (3 * off @ off)), rel=1e-6, abs=1e-9)
    assert line.height.value == pytest.approx(y.mean(), abs=1e-9) and line.height.freedom == 2
    assert line.height.error == pytest.approx(y.mean(0).std(ddof=1) / 3**0.5, rel=1e-6, abs=1e-9)
    zero = line.crossing()
    assert (zero is not None) == (line.slope.p() <= 0.05)  # type: ignore[operator]
    for end in (zero.low, zero.high) if zero is not None else ():
        if end is not None:  # at its ends the band touches zero
            band = line.at(end)
            assert band.low is not None and band.high is not None
            assert min(abs(band.low), abs(band.high)) <= 1e-6 * (1 + abs(band.high - band.low))


@pytest.mark.parametrize(("of_seed", "shared"), [(0.0, 0.0), (9.0, 0.0), (0.0, 6.0), (0.0, 12.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(of_seed: float, shared: float) -> None:
    """Also where seeds go together over the axis, and where one run of the compared row stands at all values."""
    rng, held = np.random.default_rng(0), {"center": 0, "end": 0, "rise": 0, "crossing": 0}
    count, told, misfits = 1000, 0, 0
    xs = (4.0, 8.0, 16.0, 32.0)
    for _ in range(count):
        common = rng.normal(0, max(of_seed, shared), 3)
        line = fit(points({x: tuple(40 - 10 * math.log2(x) + rng.normal(0, 6, 3) + common) for x in xs}), True)
        assert line is not None
        for name, x in (("center", 2**3.5), ("end", 32.0)):
            band = line.at(x)
            assert band.low is not None and band.high is not None
            held[name] += band.low <= 40 - 10 * math.log2(x) <= band.high
        rise = line.rise()
        assert rise.low is not None and rise.high is not None
        held["rise"] += rise.low <= -30 <= rise.high
        zero = line.crossing()
        if zero is not None:
            told += 1
            held["crossing"] += (zero.low or 0) <= 16 <= (zero.high or math.inf)
        misfits += line.misfit is not None and line.misfit < 0.05
    held["crossing"] += count - told  # no bounds hold everything
    assert {name: round(number / count, 3) for name, number in held.items()} == {
        name: pytest.approx(0.96, abs=0.025) for name in held
    }
    assert misfits / count == pytest.approx(0.05, abs=0.025)


def test_what_cannot_be_told() -> None:
    two = fit(points({1.0: (1.0, 2.0), 2.0: (2.0, 3.0)}), logarithmic=True)
    same = fit(points({x: (1.0, 1.0) for x in (1.0, 2.0, 4.0)}), logarithmic=True)
    one_seed = fit(points({1.0: (1.0,), 2.0: (2.0,), 4.0: (2.5,)}), logarithmic=True)
    assert two is None and same is None and one_seed is None and crossing_text(None) == ""
    flat = fit(points({1.0: (1.0, 2.0), 2.0: (2.0, 1.0), 4.0: (1.0, 2.1)}), logarithmic=True)
    assert crossing_text(flat) == "the slope may be 0"
    far = fit(points({1.0: (100.0, 100.1), 2.0: (99.0, 99.2), 4.0: (98.0, 98.1)}), logarithmic=True)
    assert crossing_text(far) == "far outside"
    bent = fit(points({1.0: (0.0, 0.1), 2.0: (5.0, 5.2), 4.0: (0.0, 0.1)}), logarithmic=True)
    assert bent is not None and bent.misfit is not None and bent.misfit < 0.01


def test_numbers_of_an_axis_are_no_powers_of_ten() -> None:
    assert [number_text(x) for x in (0.0512, 12.34, 4812.0, 6.5e6)] == ["0.0512", "12.3", "4,810", "6,500,000"]


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
        ("  optim.steps: [6, 12, 24]\n", "", "one_at_a_time: is for several axes, and there are 1"),
        ("steps: 12}", "steps: 13}", "axes.optim.steps: with one_at_a_time, rows stay at the value"),
        ("steps: 12}", "steps: 13}", "and that is 13, which is not among its values: add it, or set"),
        ("label: ours}", "label: ours, spec: {optim: {steps: 6}}}", "the row 'ours' sets it too"),
        ("x: [optim.steps, ", "x: [optim.steps, optim.steps, ", "names one twice"),
        ("  - {label: ours}\n", "", "'ours' is no row"),
        (
            "row: ours, than: [base, ",
            "row: base, than: [",
            "selfguided.mask_ratio changes nothing in 'base' or 'base, two'",
        ),
    ],
)
def test_what_a_trend_cannot_show_is_refused(tmp_path: Path, was: str, now: str, says: str) -> None:
    assert was in TEXT
    with pytest.raises(SpecError) as error:
        Study(tmp_path, TEXT.replace(was, now))
    assert says in str(error.value) and "study.yaml:" in str(error.value)
