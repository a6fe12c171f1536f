"""Paired and block intervals, Holm, P(A > B) and the split of noise, against formulas, SciPy and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from star.report.block import FITS_ABOVE, Block
from star.report.method import judge_by
from star.report.noise import spreads
from star.report.stats import Sample, holm, paired, seeds_to_decide, superiority

GRID = st.integers(3, 6).flatmap(
    lambda rows: st.integers(2, 5).flatmap(
        lambda seeds: st.lists(
            st.lists(st.floats(-9, 9).map(lambda value: round(value, 2)), min_size=seeds, max_size=seeds),
            min_size=rows,
            max_size=rows,
        )
    )
)


def block_of(values: np.ndarray) -> Block:
    return Block({f"r{i}": dict(enumerate(map(float, row))) for i, row in enumerate(values)})


def sample(block: Block, row: str, weight: float) -> Sample:
    return Sample(weight, list(block.values[row].values()), list(block.values[row]), row)


def test_a_paired_difference_is_scipys() -> None:
    first, second = [3.0, 4.5, 4.1, 9.0], [2.0, 4.0, 3.0, 7.0]
    known = scipy.stats.ttest_rel(first, second)
    found = paired(
        [Sample(1.0, first, (0, 1, 2, 5)), Sample(-1.0, [*second, 100.0], (0, 1, 2, 5, 7))]
    )  # 7 is only one's
    interval = known.confidence_interval(0.95)
    assert (found.interval().low, found.interval().high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.p() == pytest.approx(known.pvalue) and found.freedom == 3
    same = paired([Sample(1.0, [0.3, 0.4], (0, 1)), Sample(-1.0, [0.1, 0.2], (0, 1))])
    assert same.error is None, "differences that agree but for rounding have no spread"
    with pytest.raises(ValueError, match="no seed is common"):
        paired([Sample(1.0, [1.0], (0,)), Sample(-1.0, [1.0], (1,))])


@given(GRID)
def test_a_full_table_is_the_analysis_of_variance(values: list[list[float]]) -> None:
    """Against the textbook: residual = value - row mean - seed mean + mean, on (rows - 1)(seeds - 1) degrees of freedom."""
    y = np.array(values)
    rows, seeds = y.shape
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    variance = float((residual**2).sum() / ((rows - 1) * (seeds - 1)))
    if math.sqrt(variance) < 1e-6:
        return
    block = block_of(y)
    found = block.estimate({"r0": 1.0, "r2": -0.5, "r1": -0.5})
    assert found.value == pytest.approx(y[0].mean() - 0.5 * y[1].mean() - 0.5 * y[2].mean(), abs=1e-9)
    assert found.error == pytest.approx(math.sqrt(variance * 1.5 / seeds))
    assert block.freedom == found.freedom == (rows - 1) * (seeds - 1)


def test_a_table_with_gaps_is_least_squares() -> None:
    """A row with two seeds of which one was high everywhere is compared on what both rows share, and on the others."""
    rng = np.random.default_rng(3)
    cells = [(row, seed) for row in range(4) for seed in range(6) if not (row in (0, 3) and seed > 2)]
    y = {cell: float(10 * cell[0] + 100 * cell[1] + rng.normal()) for cell in cells}
    block = Block({f"r{row}": {seed: y[row, seed] for one, seed in cells if one == row} for row in range(4)})
    # without the first row's and the first seed's column the design has full rank, and inverting it is legal
    design = np.array(
        [[float(row == i) for i in range(4)] + [float(seed == j) for j in range(1, 6)] for row, seed in cells]
    )
    numbers = np.array([y[cell] for cell in cells])
    inverse = np.linalg.inv(design.T @ design)
    best = inverse @ design.T @ numbers
    variance = np.square(numbers - design @ best).sum() / (len(cells) - 9)
    wanted = np.array([1.0, -1.0, 0, 0, 0, 0, 0, 0, 0])
    found = block.estimate({"r0": 1.0, "r1": -1.0})
    assert found.value == pytest.approx(wanted @ best) and found.freedom == len(cells) - 9
    assert found.error == pytest.approx(math.sqrt(variance * wanted @ inverse @ wanted))
    assert abs(found.value + 10) < 2, "means of the two rows differ by 160: other seeds"
    with pytest.raises(ValueError, match="do not cancel"):
        block.estimate({"r0": 1.0, "r1": -0.95})
    apart = Block({"a": {0: 1.0, 1: 2.0}, "b": {2: 1.0, 3: 2.0}, "c": {0: 4.0, 1: 3.0}})
    with pytest.raises(ValueError, match="do not cancel"):
        apart.estimate({"a": 1.0, "b": -1.0})


def test_rows_go_together_over_seeds_as_they_were_drawn() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=400)
    block = block_of(np.stack([shared + rng.normal(size=400) for _ in range(3)]))
    assert block.correlation == pytest.approx(0.5, abs=0.1)
    assert block.spread == pytest.approx(1.0, abs=0.06), "what seeds share is no chance"


def test_the_checks_of_equal_spread_see_a_row_that_spreads_more_and_are_calm_else() -> None:
    rng = np.random.default_rng(1)
    equal = [block_of(rng.normal(size=(5, 4))) for _ in range(300)]
    share = np.mean([(block.equal_spread or 0) < 0.1 for block in equal])
    assert 0.05 < share < 0.16, "p is a p value"
    own = np.mean([(block.fits({"r0": 1.0, "r1": -1.0}) or 0) < 0.1 for block in equal])
    assert 0.05 < own < 0.16
    noisy = [block_of(rng.normal(size=(5, 4)) * np.array([[8.0], [1], [1], [1], [1]])) for _ in range(50)]
    assert np.mean([(block.equal_spread or 1) < 0.05 for block in noisy]) > 0.9
    used = [(block.fits({"r0": 1.0, "r1": -1.0}) or 0) > FITS_ABOVE for block in noisy]
    others = [(block.fits({"r3": 1.0, "r1": -1.0}) or 0) > FITS_ABOVE for block in noisy]
    assert np.mean(used) < 0.05 and np.mean(others) > 0.9, (
        "a noisy row forbids its own contrasts, not those of quiet rows"
    )
    assert block_of(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])).equal_spread is None, "no spread at all"


def test_what_cannot_be_judged_as_asked_is_judged_by_something_simpler_and_says_so() -> None:
    rng = np.random.default_rng(2)
    block = block_of(rng.normal(size=(4, 4)))
    pair = [sample(block, "r0", 1.0), sample(block, "r1", -1.0)]
    quiet = max((a for a in block.rows), key=lambda row: block.fits({row: 1.0, "r3": -1.0}) or 0 if row != "r3" else 0)
    good = [sample(block, quiet, 1.0), sample(block, "r3", -1.0)]
    assert judge_by("block", good, block).method == "block" and not judge_by("block", good, block).told
    assert judge_by("welch", pair, block).method == "welch" and judge_by("paired", pair).method == "paired"
    loud = Block({**block.values, "r0": {seed: 50 * value for seed, value in block.values["r0"].items()}})
    spread = judge_by("block", [sample(loud, "r0", 1.0), sample(loud, "r1", -1.0)], loud)
    assert (
        spread.method == "welch"
        and spread.told == "Welch in place of block: these rows may spread more than the others"
    )
    margin = judge_by("block", [pair[0], sample(block, "r1", -0.95)], block)
    assert margin.method == "paired" and "weights sum to 0" in margin.told
    two = Block({row: block.values[row] for row in ("r0", "r1")})
    assert judge_by("block", pair, two).method == "paired"
    apart = [Sample(1.0, [1.0, 2.0], (0, 1), "a"), Sample(-1.0, [1.0, 3.0], (2, 3), "b")]
    assert judge_by("paired", apart).told == "Welch in place of paired: fewer than two seeds are common to the rows"
    assert judge_by("block", [pair[0]], block).method == "welch", "one row by itself is Student's"


def test_the_seeds_that_each_method_needs_give_the_power_that_they_promise() -> None:
    rng = np.random.default_rng(5)
    pilot = rng.normal(size=(5, 3)) + 1.5 * rng.normal(size=3)
    block = block_of(pilot)
    pair = [sample(block, "r0", 1.0), sample(block, "r1", -1.0)]
    for method in ("paired", "block"):
        count = seeds_to_decide(pair, 1.2, 0.95, method, block)
        assert count is not None
        spread = block.spread if method == "block" else float(np.std(pilot[0] - pilot[1], ddof=1)) / math.sqrt(2)
        decided = 0
        for _ in range(300):
            y = rng.normal(size=(5, count)) * spread + 1.5 * rng.normal(size=count)
            y[0] += 1.2
            new = block_of(y)
            weights = {"r0": 1.0, "r1": -1.0}
            found = (
                new.estimate(weights) if method == "block" else paired([sample(new, r, w) for r, w in weights.items()])
            )
            decided += (found.interval().low or 0) > 0
        assert 0.7 < decided / 300 < 0.92, method


def test_holm() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_says_less_than_one_comparison_nor_more_than_bonferroni(values: list[float]) -> None:
    found = holm(list(values))
    for p, adjusted in zip(values, found, strict=True):
        assert adjusted is not None and p <= adjusted <= min(1.0, p * len(values)) + 1e-12


def test_how_often_one_run_beats_another() -> None:
    first, second = [3.0, 1.0, 2.0], [0.0, 2.0]
    assert superiority(first, second) == pytest.approx((2 + 1 + 1 + 0.5) / 6)
    known = scipy.stats.mannwhitneyu(first, second).statistic / 6
    assert superiority(first, second) == pytest.approx(known)
    assert superiority([], second) is None


def test_noise_of_measuring_is_told_from_noise_of_training() -> None:
    rng = np.random.default_rng(0)
    models = {seed: list(rng.normal(scale=3.0) + rng.normal(size=4)) for seed in range(500)}
    found = spreads(models)
    assert found is not None and found == (pytest.approx(3.0, rel=0.1), pytest.approx(1.0, rel=0.1))
    nothing = spreads({seed: list(rng.normal(size=3)) for seed in range(500)})
    assert nothing is not None and nothing[0] < 0.25, "models that differ by measuring alone"
    assert spreads({0: [1.0, 2.0]}) is None and spreads({0: [1.0], 1: [2.0]}) is None
