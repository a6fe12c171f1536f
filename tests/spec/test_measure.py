"""Names of metrics, points on curves, and formulas over them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star.spec.measure import Measure, curve_value, parse_formula, parse_measure


def test_names() -> None:
    assert parse_measure("probe/accuracy") == Measure("probe/accuracy")
    assert parse_measure("probe/accuracy_by_position").is_curve
    assert parse_measure("probe/accuracy_by_position@3/4") == Measure("probe/accuracy_by_position", "3/4")
    assert parse_measure("mlflow:my score").stage is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("probe/acuracy", "no result.*did you mean probe/accuracy"),
        ("probe/accuracy@last", "no curve.*accuracy_by_position"),
        ("probe/accuracy_by_position@lst", "no place on a curve.*did you mean last"),
        ("mlflow:", "no result"),
    ],
)
def test_wrong_names_say_what_is_legal(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_measure(text)


def test_points_of_a_curve() -> None:
    curve = {6: 0.1, 12: 0.5, 37: 0.4, 49: 0.3}
    wanted = {"last": 0.3, "first": 0.1, "max": 0.5, "min": 0.1, "mean": 0.325, "37": 0.4, "3/4": 0.4, "1/1": 0.3}
    assert {where: curve_value(curve, where) for where in wanted} == pytest.approx(wanted)
    assert curve_value(curve, "7") is None and curve_value({}, "last") is None


@given(a=st.floats(-10, 10), b=st.floats(0.1, 10))
def test_formulas(a: float, b: float) -> None:
    formula = parse_formula("max(1, 100 * ([probe/accuracy] - [train/val_nll]) ** 2 / -2 + abs([probe/accuracy]))")
    found = formula.value({"v0": a, "v1": b, "v2": a})
    assert found == pytest.approx(max(1, 100 * (a - b) ** 2 / -2 + abs(a)))


def test_a_formula_without_a_value_is_nan() -> None:
    assert math.isnan(parse_formula("1 / [probe/accuracy]").value({"v0": 0.0}))
    assert math.isnan(parse_formula("log([probe/accuracy])").value({"v0": -1.0}))
    assert math.isnan(parse_formula("[probe/accuracy] ** 0.5").value({"v0": -1.0}))
    assert math.isnan(parse_formula("exp([probe/accuracy])").value({"v0": 1e9}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[probe/accuracy] +", "is no formula"),
        ("1 + 2", "names no metric"),
        ("__import__('os').system('true') + [probe/accuracy]", "not allowed"),
        ("[probe/accuracy].real", "not allowed"),
        ("sum([probe/accuracy])", "not allowed"),
        ("[probe/accuracy] if 1 else 2", "not allowed"),
        ("[probe/accuracy_by_position]", "say where to read it"),
        ("'a' * [probe/accuracy]", "not allowed"),
        ("min([probe/accuracy])", "not allowed"),
        ("sqrt([probe/accuracy], 2)", "not allowed"),
    ],
)
def test_wrong_formulas(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_formula(text)
