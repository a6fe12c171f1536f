"""What a report may call a metric: a tracked number, a point of a tracked curve, or a formula over those.

`stage/name` is a result, `stage/flops` the operations that its job was planned with; `stage/curve@where` is one number of a
curve, where `where` is `last`, `first`, `max`, `min`, `mean`, a step, or a share of the last step such as `3/4`; `mlflow:NAME`
is a number that somebody else logged to the tracked run. A formula has such names in brackets:
`100 * ([probe/accuracy_by_position@max] - [probe/accuracy])`.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean

from star.spec.builtin import builtin_stages
from star.spec.graph import Stage, curve_names, result_names
from star.words import meant

FOREIGN = "mlflow:"
COST = "flops"
"""Name of the operations that a job was planned with, as a result of every stage."""
NAMED = ("last", "first", "max", "min", "mean")
MOST_TERMS = 200
"""Most signs of one kind in a formula, which is worked out by recursion."""
_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
}


@dataclass(frozen=True)
class Measure:
    """One tracked number, or a whole curve."""

    name: str
    """Name as tracked; `{extractor}` is filled in from the run's spec."""
    at: str | None = None
    """Where to read a curve, such as `last` or `3/4`; None for a result or a whole curve."""
    is_curve: bool = False
    """Whether it is a whole curve."""
    is_cost: bool = False
    """Whether it is `STAGE/flops`, which is known of every job, and is 0 for a stage that a run does without."""

    @property
    def stage(self) -> str | None:
        """The stage that makes the number; None for an `mlflow:NAME`."""
        return None if self.name.startswith(FOREIGN) else self.name.split("/")[0]


@dataclass(frozen=True)
class Formula:
    """Arithmetic over measures."""

    text: str
    tree: ast.Expression
    measures: dict[str, Measure]
    """Variable of the tree -> measure."""

    def value(self, values: Mapping[str, float]) -> float:
        """The formula's result for these values of its variables; NaN if it has none, as for a division by zero."""
        try:
            return float(_evaluate(self.tree.body, values))
        except (ArithmeticError, ValueError):
            return math.nan


def parse_measure(text: str, stages: Mapping[str, Stage] | None = None) -> Measure:
    """Parse `stage/name`, `stage/curve`, `stage/curve@where` or `mlflow:NAME`.

    Args:
        stages: the stages of the runs; those of the built-in pipeline when None.

    Raises:
        ValueError: the text is none of these; the message says what is legal.
    """
    if text.startswith(FOREIGN) and len(text) > len(FOREIGN):
        return Measure(text)
    name, at_sign, where = text.partition("@")
    stages = builtin_stages() if stages is None else stages
    stage, _, result = name.partition("/")
    if result == COST and stage in stages and result not in stages[stage].results:
        return Measure(name, is_cost=True)
    curves, results = list(curve_names(stages)), result_names(stages)
    if at_sign:
        if name not in curves:
            raise ValueError(f"{name!r} is no curve{meant(name, curves)}; legal: {', '.join(curves)}")
        if where not in NAMED and not (re.fullmatch(r"\d+|[1-9]\d*/[1-9]\d*", where) and _in_reach(where)):
            raise ValueError(
                f"{text!r}: {where!r} is no place on a curve{meant(where, list(NAMED))}; "
                f"give {', '.join(NAMED)}, a step, or a share such as 3/4"
            )
        return Measure(name, where)
    if name not in results and name not in curves:
        of_curves = f"with @last, @max, @3/4 the curves {', '.join(curves)}" if curves else ""
        legal = ", and ".join(filter(None, (", ".join(results), of_curves)))
        raise ValueError(
            f"{name!r} is no result{meant(name, results + curves)}; legal: {legal or 'none, no stage declares `results` or `curves`'}"
        )
    return Measure(name, is_curve=name in curves)


def parse_formula(text: str, stages: Mapping[str, Stage] | None = None) -> Formula:
    """Parse a formula of numbers, measures in brackets, + - * / **, min, max, abs, sqrt, log and exp.

    Args:
        stages: the stages of the runs; those of the built-in pipeline when None.

    Raises:
        ValueError: the text is no such formula, or one of its measures is not legal.
    """
    if max(map(text.count, "+-*/([")) > MOST_TERMS:
        raise ValueError(f"{text[:40]!r}... has more than {MOST_TERMS} terms; make it of fewer")
    measures: dict[str, Measure] = {}

    def variable(match: re.Match[str]) -> str:
        measure = parse_measure(match[1].strip(), stages)
        if measure.is_curve:
            raise ValueError(f"{match[1]!r} is a curve; say where to read it, such as {match[1]}@last")
        name = f"v{len(measures)}"
        measures[name] = measure
        return name

    try:
        bare = ast.walk(ast.parse(_BRACKETS.sub("(0)", text).strip(), mode="eval"))
        names = [node.id for node in bare if isinstance(node, ast.Name) and node.id not in _FUNCTIONS]
        tree = ast.parse(_BRACKETS.sub(variable, text).strip(), mode="eval")
    except SyntaxError:
        raise ValueError(f'{text!r} is no formula; write it as in "100 * [probe/accuracy] - 1"') from None
    if names:
        raise ValueError(
            f'{text!r}: {names[0]!r} is not allowed in a formula; metrics stand in brackets, as in "[probe/accuracy]"'
        )
    if not measures:
        raise ValueError(f'{text!r} names no metric; put its names in brackets, as in "[probe/accuracy] - 0.1"')
    _check(tree.body, measures, text)
    return Formula(text, tree, measures)


_OVER_ALL: dict[str, Callable[[Collection[float]], float]] = {"max": max, "min": min, "mean": fmean}


def curve_value(points: Mapping[int, float], where: str) -> float | None:
    """A curve's value at `where`; None if the curve is empty or has no such step.

    A curve that diverged, which has a value that is not finite, has neither a mean nor a best value: they are NaN.
    """
    if not points:
        return None
    steps = sorted(points)
    if where in ("last", "first"):
        return points[steps[-1] if where == "last" else steps[0]]
    if where in _OVER_ALL:
        return _OVER_ALL[where](points.values()) if all(map(math.isfinite, points.values())) else math.nan
    if "/" in where:
        return points[nearest(steps, where)]
    return points.get(int(where))


def _in_reach(where: str) -> bool:
    return "/" not in where or Fraction(where) <= 1


def nearest(steps: list[int], share: str) -> int:
    """The recorded step nearest to a share of the last step; of two equally near ones, the later. `steps` is sorted."""
    wanted = Fraction(share) * steps[-1]
    return min(steps, key=lambda step: (abs(step - wanted), -step))


def _check(node: ast.AST, measures: Mapping[str, Measure], text: str) -> None:
    legal = (
        (isinstance(node, ast.Constant) and type(node.value) in (int, float))
        or (isinstance(node, ast.Name) and node.id in measures)
        or (isinstance(node, ast.BinOp | ast.UnaryOp) and type(node.op) in _OPERATORS)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS)
    )
    if isinstance(node, ast.Call) and legal:
        several = ast.unparse(node.func) in ("min", "max")
        legal = not node.keywords and (len(node.args) >= 2 if several else len(node.args) == 1)
    if not legal:
        raise ValueError(
            f"{text!r}: {_as_written(node, measures)!r} is not allowed in a formula; it may have numbers, metrics in brackets, + - * / **, "
            f"min and max of several, {', '.join(list(_FUNCTIONS)[2:])} of one"
        )
    for child in _operands(node):
        _check(child, measures, text)


def _as_written(node: ast.AST, measures: Mapping[str, Measure]) -> str:
    """A part of a formula as its author wrote it, with names in brackets in place of variables."""

    def name(match: re.Match[str]) -> str:
        found = measures.get(match[0])
        return match[0] if found is None else f"[{found.name}{f'@{found.at}' if found.at else ''}]"

    return re.sub(r"\bv\d+\b", name, ast.unparse(node))


def _operands(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    return node.args if isinstance(node, ast.Call) else []


def _evaluate(node: ast.AST, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return values[node.id]
    operands = [_evaluate(child, values) for child in _operands(node)]
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _FUNCTIONS[node.func.id](*operands)
    assert isinstance(node, ast.BinOp | ast.UnaryOp)
    return _OPERATORS[type(node.op)](*operands)
