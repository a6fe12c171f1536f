"""Intervals, effect sizes and seed counts against SciPy, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from star.report.stats import (
    Sample,
    bootstrap,
    contrast,
    effect_of_one,
    effect_size,
    half_interval,
    kendall,
    seeds_to_decide,
)

VALUES = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=8)


@given(first=VALUES, second=VALUES)
def test_a_difference_is_welchs(first: list[float], second: list[float]) -> None:
    if np.std(first) + np.std(second) < 1e-3:
        return
    found = contrast([Sample(1.0, first), Sample(-1.0, second)])
    known = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert found.estimate == pytest.approx(np.mean(first) - np.mean(second), abs=1e-9)
    assert (found.low, found.high) == (pytest.approx(known.low, abs=1e-6), pytest.approx(known.high, abs=1e-6))


def test_one_mean_is_students() -> None:
    values = [3.0, 4.5, 4.0]
    known = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = contrast([Sample(1.0, values)])
    assert (found.low, found.high) == (pytest.approx(known.low), pytest.approx(known.high))
    assert half_interval(values) == pytest.approx((known.high - known.low) / 2)
    assert half_interval([1.0]) is None


def test_one_seed_has_no_interval_nor_have_seeds_that_are_equal() -> None:
    assert contrast([Sample(1.0, [3.0]), Sample(-1.0, [1.0, 2.0])]).low is None
    same = contrast([Sample(1.0, [3.0, 3.0]), Sample(-1.0, [1.0, 1.0])])
    assert (same.low, same.estimate, same.high) == (None, 2.0, None), "no spread is no certainty"
    assert bootstrap([Sample(1.0, [1.0, 2.0, 3.0, 4.0])]).low is None, "four seeds are too few to resample"
    for method in (contrast, bootstrap):
        equal = method([Sample(1.0, [2.0] * 30), Sample(-1.0, [1.0] * 30)])
        assert (equal.low, equal.high) == (None, None), "however many they are"


def test_the_bootstrap_is_near_t_and_the_same_each_time() -> None:
    values = list(np.random.default_rng(1).normal(size=40))
    drawn, exact = (method([Sample(1.0, values)]) for method in (bootstrap, contrast))
    assert drawn == bootstrap([Sample(1.0, values)])
    assert drawn.low == pytest.approx(exact.low, abs=0.05) and drawn.high == pytest.approx(exact.high, abs=0.05)


def test_effect_sizes() -> None:
    first, second = [5.0, 6.0, 7.0], [1.0, 2.0, 3.0]
    assert effect_size(first, second) == pytest.approx(4.0 * (1 - 3 / 15))  # pooled deviation 1, Hedges' correction
    assert effect_size([1.0], second) is None and effect_size([1.0, 1.0], [1.0, 1.0]) is None
    assert effect_of_one([1.0, 2.0, 3.0]) == pytest.approx(2.0 * (1 - 3 / 7))


def test_seeds_to_decide_gives_the_power_that_it_promises() -> None:
    """Drawn again and again with that many seeds, about four of five intervals exclude zero."""
    first, second = [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]  # a difference of one standard deviation
    count = seeds_to_decide([Sample(1.0, first), Sample(-1.0, second)], 1.0)
    assert count is not None
    rng, decided = np.random.default_rng(0), 0
    for _ in range(400):
        found = contrast([Sample(1.0, rng.normal(0, 1, count)), Sample(-1.0, rng.normal(1, 1, count))])
        decided += found.high is not None and found.high < 0
    assert 0.72 < decided / 400 < 0.88
    assert (
        seeds_to_decide([Sample(1.0, [1.0])], 1.0) is None and seeds_to_decide([Sample(1.0, [1.0, 2.0])], 1e-6) is None
    )


def test_kendall() -> None:
    assert kendall([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(4 / 6)
    assert kendall([1, 2], [1, 2]) is None and kendall([1, 1, 1], [1, 2, 3]) is None
