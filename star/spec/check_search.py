"""Checks of a search beyond its types, made before the first trial. Errors name file and line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from star.errors import SpecError
from star.spec.explain import field_schema
from star.spec.graph import needed_of
from star.spec.keys import stage_keys
from star.spec.measure import FOREIGN, parse_measure
from star.spec.points import Point, Search, completed, fits, number_kind_of
from star.spec.run_base import Run, value_at
from star.spec.search import Parameter
from star.spec.yamldoc import LocatedYaml


def _evaluation(default: Run) -> tuple[str, ...]:
    """Sections that `pruner.spec` may change: `resources`, and those that neither training nor its inputs read.

    Training must stay the same, because a trial goes on from the comparison.
    """
    before = needed_of([default.training.stage], default.pipeline) if default.training else ()
    read = {name for stage in before for name in default.pipeline[stage].sections}
    later = {name for stage in default.pipeline.values() for name in stage.sections} - read - {"seed"}
    return (*(name for name in type(default).model_fields if name in later), "resources")


def check_search(search: Search, doc: LocatedYaml) -> None:
    """Check a search's fields, ranges and their ends, objectives, pruner and starting points.

    Raises:
        SpecError: one is not legal; with file, line and dotted path.
    """
    _Checker(search, doc).check()


class _Checker:
    """Checks one search."""

    def __init__(self, search: Search, doc: LocatedYaml) -> None:
        self.search, self.doc = search, doc

    def check(self) -> None:
        """Check fields, ranges and their ends, objectives, the pruner and starting points."""
        for name, parameter in self.search.spec.space.items():
            self._field(name, parameter)
        base = self.search.default
        for field in base.not_searched:
            if value_at(base, field) is not None or field in self.search.spec.space:
                location = self.search.base.location(tuple(field.split("."))) or self.doc.location(("space", field))
                raise SpecError(
                    f"{location or self.search.file}: {field}: has no place in a search, whose trials train to the end."
                )
        for i, objective in enumerate(self.search.spec.objectives):
            self._objective(objective.metric, ("objectives", i, "metric"))
        self._pruner()
        default = self.search.point_of(self.search.default)
        for name, value in default.items():
            if not fits(self.search.spec.space[name], value):
                steps = ", on one of its steps" if self.search.spec.space[name].step else ""
                self._complain(
                    ("space", name),
                    f"the base's own {value!r} is the first trial and must lie in it{steps}; change it, or base",
                )
        for name in self.search.spec.space:
            self._ends(name, default)
        for i, start in enumerate(self.search.spec.start):
            self._start(i, start, default)

    def _complain(self, where: tuple[str | int, ...], text: str) -> NoReturn:
        path = ".".join(map(str, where))
        raise SpecError(f"{self.doc.location(where) or self.search.file}: {path}: {text}.")

    def _field(self, name: str, parameter: Parameter) -> None:
        try:
            schema = field_schema(type(self.search.default), name)
        except SpecError as error:
            self._complain(("space", name), str(error).removeprefix(f"{name}: "))
        if schema.get("properties"):
            first = next(iter(schema["properties"]))
            self._complain(("space", name), f"is a section of a run; name one of its fields, such as {name}.{first}")
        if name == "seed":
            self._complain(("space", name), "seeds are no parameter; `seeds` says how many runs a trial has")
        if not parameter.choices and not number_kind_of(schema):
            self._complain(("space", name), "is no number; give choices in place of a range")
        whole = number_kind_of(schema) == "integer" and not parameter.choices
        ends = [value for value in (parameter.low, parameter.high, parameter.step) if value is not None]
        if whole and any(value != int(value) for value in ends):
            self._complain(("space", name), "is a whole number; so must low, high and step be")

    def _objective(self, metric: str, where: tuple[str | int, ...]) -> None:
        try:
            measure = parse_measure(metric, self.search.spec.pipeline)
        except ValueError as error:
            self._complain(where, str(error))
        if metric.startswith(FOREIGN):
            self._complain(where, f"{metric!r} is not computed here; give a result of a stage")
        if measure.is_curve:
            self._complain(where, f"{metric!r} is a curve; say where to read it, such as {metric}@last")
        default = self.search.default
        searched = {name.partition(".")[0] for name in self.search.spec.space}
        remedy = default.not_recorded(measure.name, measure.at)
        if remedy and not remedy.startswith(tuple(searched)):  # trials may record what the first one does not
            self._complain(where, f"{metric!r} is not recorded; {remedy}")
        first = self.search.spec.pruner.min_steps
        if (
            first
            and default.training
            and measure.stage == default.training.stage
            and (measure.at or "").isdigit()
            and int(measure.at or 0) > first
        ):
            self._complain(where, f"{metric!r} lies after the first comparison, at step {first}; give @last")

    def _pruner(self) -> None:
        pruner, default = self.search.spec.pruner, self.search.default
        legal = _evaluation(default)
        for section in pruner.spec:
            if section not in legal:
                self._complain(
                    ("pruner", "spec", section),
                    f"trials go on from these comparisons, which may only change {', '.join(legal)}",
                )
        for name in self.search.spec.space:
            steps = ("pruner", "spec", *name.split("."))
            if steps in self.doc.locations:
                self._complain(steps, "is what the search varies; take it out here, or out of space")
        if pruner.min_steps is not None:
            training = default.training
            if training is None:
                self._complain(
                    ("pruner",),
                    "ends trials early, and no command says how it is ended: name a parameter as its `length`, or give none",
                )
            if training.until in self.search.spec.space:
                self._complain(
                    ("space", training.until),
                    "is how far trials are compared, and no parameter of a search with a pruner",
                )
            if pruner.min_steps >= training.steps:
                self._complain(
                    ("pruner", "min_steps"),
                    f"{pruner.min_steps} is not before the end of training, {training.steps} steps",
                )
            if default.cannot_go_on is not None:
                field, why = default.cannot_go_on
                location = self.search.base.location(tuple(field.split(".")))
                raise SpecError(f"{location or self.search.file}: {field}: {why}, or leave the pruner out.")
            self.search.run(self.search.point_of(self.search.default), pruner.min_steps)

    def _ends(self, name: str, default: Point) -> None:
        """Check that each end of a range, or each choice, gives a legal run, and that not all give the same run."""
        parameter = self.search.spec.space[name]
        keys = set()
        for value in parameter.choices or (parameter.low, parameter.high):
            point = completed(self.search, {**default, **self._conditions(name), name: value})
            try:
                run = self.search.run(point)
            except SpecError as error:
                if f" {name}: " in str(error):
                    raise
                self._complain(("space", name), f"at {value!r} there is no legal run: {str(error).rstrip('.')}")
            found = stage_keys(run, {})
            keys.add(tuple(found[stage] for stage in needed_of(self.search.targets, run.pipeline) if stage in found))
        if len(keys) == 1:
            self._complain(
                ("space", name),
                "changes nothing that the objectives see: the part that it sets is switched off, or comes after them",
            )

    def _conditions(self, name: str) -> Point:
        """Values of earlier parameters with which this one is active."""
        wanted: Point = {}
        for other, values in self.search.spec.space[name].when.items():
            wanted |= {**self._conditions(other), other: values[0]}
        return wanted

    def _start(self, index: int, start: Mapping[str, Any], default: Point) -> None:
        for name, value in start.items():
            if name not in self.search.spec.space:
                self._complain(
                    ("start", index, name), f"is no parameter; space has: {', '.join(self.search.spec.space)}"
                )
            if not fits(self.search.spec.space[name], value):
                parameter = self.search.spec.space[name]
                legal = f"from {parameter.low:g} to {parameter.high:g}" if parameter.low is not None else "a choice"
                legal = f"one of {', '.join(map(str, parameter.choices))}" if parameter.choices else legal
                step = f" in steps of {parameter.step:g}" if parameter.low is not None and parameter.step else ""
                self._complain(("start", index, name), f"{value!r} is not in its range; give {legal}{step}")
        whole = completed(self.search, {**default, **start})
        for name in start:
            if name not in whole:
                self._complain(("start", index, name), "is not there: the values above do not fulfil its `when`")
        self.search.run(whole)
