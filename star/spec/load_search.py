"""From a search's YAML to points and their runs; everything that can be wrong is told before there is a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from star.errors import SpecError
from star.spec.experiment import Experiment, ExperimentSpec, Row, Variant
from star.spec.explain import field_schema, validated
from star.spec.keys import stage_keys
from star.spec.load import base_of, parse_set
from star.spec.measure import FOREIGN, Measure, parse_measure
from star.spec.run import RunSpec
from star.spec.search import Parameter, SearchSpec
from star.spec.yamldoc import Doc, Mark, nested, overlay, read

Point = dict[str, Any]
"""Dotted path -> value, of the parameters that are there."""
EARLY = "-early"
"""After the search's name: the experiment of the runs that end before their last step."""
EVALUATION = ("generate", "score", "probe", "attention", "resources")
"""Sections that a comparison on the way may change: training must stay what it is, so that it can go on from there."""


@dataclass(frozen=True)
class Search:
    """A search, resolved at a profile."""

    file: str
    spec: SearchSpec
    profile: str
    profile_file: Path
    base: Doc
    marks: Mapping[str, Mark | None]
    """Parameter -> where the file has it."""
    default: RunSpec
    """The base's own run."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.search

    @property
    def measures(self) -> list[Measure]:
        """Of the objectives."""
        return [parse_measure(objective.metric) for objective in self.spec.objectives]

    @property
    def targets(self) -> tuple[str, ...]:
        """The stages that a whole trial reaches."""
        return tuple(dict.fromkeys([*(str(m.stage) for m in self.measures), *self.spec.targets]))

    def active(self, point: Mapping[str, Any], name: str) -> bool:
        """Whether a parameter is there at a point that has all parameters above it."""
        return all(other in point and point[other] in values for other, values in self.spec.space[name].when.items())

    def point_of(self, spec: RunSpec) -> Point:
        """The point at which a run lies."""
        point: Point = {}
        for name in self.spec.space:
            if self.active(point, name):
                point[name] = value_at(spec, name)
        return point

    def contains(self, point: Mapping[str, Any]) -> bool:
        """Whether a trial may lie there."""
        return all(_fits(self.spec.space[name], value) for name, value in point.items())

    def rungs(self, spec: RunSpec) -> list[int]:
        """Steps at which a trial is compared with others before its end."""
        pruner, steps = self.spec.pruner, []
        step = pruner.min_steps
        while step is not None and step < spec.total_steps:
            steps.append(step)
            step *= pruner.reduction
        return steps

    def run(self, point: Mapping[str, Any], until: int | None = None) -> RunSpec:
        """The run at a point, to its end, or up to a step and as cheaply measured as the pruner says.

        Raises:
            SpecError: the values do not fit together.
        """
        doc = self.base
        for name, value in point.items():
            doc = overlay(doc, nested(tuple(name.split(".")), value, self.marks.get(name) or Mark(self.file)))
        if until is not None:
            doc = overlay(doc, Doc({**self.spec.pruner.spec}))
            doc = overlay(doc, nested(("optim", "until"), until, Mark(self.file)))
        return validated(RunSpec, doc, self.file)

    def early(self, label: str, until: int, spec: RunSpec) -> Experiment:
        """The runs of a trial up to a comparison: an experiment beside the whole ones, which reaches the first objective alone."""
        target = str(self.measures[0].stage)
        name = f"{self.name}{EARLY}"
        return self.experiment([(f"{label}, {until} steps", spec)], self.spec.seeds, [target], experiment=name)

    def experiment(
        self,
        rows: Sequence[tuple[str, RunSpec]],
        seeds: Sequence[int],
        targets: Sequence[str],
        cells: Mapping[str, dict[str, str | int | float]] | None = None,
        **more: Any,
    ) -> Experiment:
        """Runs with labels as an experiment that can be planned, run and reported.

        Args:
            cells: label -> texts for columns of its table.
            more: fields of the experiment's own spec.
        """
        told = cells or {}
        variants = tuple(
            Variant(
                label,
                Row(label=label, cells=told.get(label, {})),
                tuple(spec.model_copy(update={"seed": seed}) for seed in seeds),
            )
            for label, spec in rows
        )
        about: dict[str, Any] = {
            "experiment": self.name,
            "title": self.spec.title,
            "profile": self.profile,
            "seeds": list(seeds),
            "rows": [variant.row for variant in variants],
            "targets": list(targets),
        }
        spec = ExperimentSpec.model_construct(**{**about, **more})
        return Experiment(self.file, spec, self.profile, variants)


def load_search(path: Path, profile: str | None = None, sets: Sequence[str] = (), name: str | None = None) -> Search:
    """The search in `path`, resolved.

    Args:
        profile: a name in `profiles/` beside the file, or a path; the file's own choice when None.
        sets: `path=value` texts, applied over the base.
        name: the study's, in place of the file's.

    Raises:
        SpecError: with file, line, dotted path, value and what is legal.
    """
    doc = read(path)
    if isinstance(doc.value, dict) and "experiment" in doc.value:
        raise SpecError(
            f"{doc.mark(('experiment',))}: this is an experiment, not a search; `star-exp run {path}` runs it."
        )
    if name is not None:
        doc = overlay(doc, nested(("search",), name, Mark(f"--name {name}")))
    spec = validated(SearchSpec, doc, str(path))
    chosen = profile or spec.profile
    base, presets = base_of(path, doc, chosen, None if profile else doc.mark(("profile",)))
    for text in sets:
        field = text.partition("=")[0]
        if field in spec.space:
            raise SpecError(
                f"--set {text}: {field} is what the search varies; take it out of space, or change its range."
            )
        base = overlay(base, parse_set(text))
    marks = {field: doc.mark(("space", field)) for field in spec.space}
    default = validated(RunSpec, base, str(path))
    search = Search(str(path), spec, Path(chosen).stem, Path(presets.file), base, marks, default)
    _Checker(search, doc).check()
    return search


class _Checker:
    """What can be wrong with a search beyond its types."""

    def __init__(self, search: Search, doc: Doc) -> None:
        self.search, self.doc = search, doc

    def check(self) -> None:
        """Fields, ranges and their ends, objectives, starting points."""
        for name, parameter in self.search.spec.space.items():
            self._field(name, parameter)
        for i, objective in enumerate(self.search.spec.objectives):
            self._objective(objective.metric, ("objectives", i, "metric"))
        self._pruner()
        default = self.search.point_of(self.search.default)
        for name, value in default.items():
            if not _fits(self.search.spec.space[name], value):
                self._complain(
                    ("space", name),
                    f"the base's own {value!r} is the first trial and must lie in it; widen it, or change base",
                )
        for name in self.search.spec.space:
            self._ends(name, default)
        for i, start in enumerate(self.search.spec.start):
            self._start(i, start, default)

    def _complain(self, where: tuple[str | int, ...], text: str) -> NoReturn:
        path = ".".join(map(str, where))
        raise SpecError(f"{self.doc.mark(where) or self.search.file}: {path}: {text}.")

    def _field(self, name: str, parameter: Parameter) -> None:
        try:
            schema = field_schema(RunSpec, name)
        except SpecError as error:
            self._complain(("space", name), str(error).removeprefix(f"{name}: "))
        if name == "seed":
            self._complain(("space", name), "seeds are no parameter; `seeds` says how many runs a trial has")
        if not parameter.choices and not _number_kind(schema):
            self._complain(("space", name), "is no number; give choices in place of a range")
        whole = _number_kind(schema) == "integer" and not parameter.choices
        ends = [value for value in (parameter.low, parameter.high, parameter.step) if value is not None]
        if whole and any(value != int(value) for value in ends):
            self._complain(("space", name), "is a whole number; so must low, high and step be")

    def _objective(self, metric: str, where: tuple[str | int, ...]) -> None:
        try:
            measure = parse_measure(metric)
        except ValueError as error:
            self._complain(where, str(error))
        if metric.startswith(FOREIGN):
            self._complain(where, f"{metric!r} is not computed here; give a result of a stage")
        if measure.is_curve:
            self._complain(where, f"{metric!r} is a curve; say where to read it, such as {metric}@last")

    def _pruner(self) -> None:
        pruner = self.search.spec.pruner
        for section in pruner.spec:
            if section not in EVALUATION:
                self._complain(
                    ("pruner", "spec", section),
                    f"trials go on from these comparisons, which may only change {', '.join(EVALUATION)}",
                )
        if pruner.min_steps is not None:
            if pruner.min_steps >= self.search.default.total_steps:
                self._complain(
                    ("pruner", "min_steps"),
                    f"{pruner.min_steps} is not before the end of training, {self.search.default.total_steps} steps",
                )
            self.search.run(self.search.point_of(self.search.default), pruner.min_steps)

    def _ends(self, name: str, default: Point) -> None:
        """That a run can be made of each end of a range, or each choice, and that they are different runs."""
        parameter = self.search.spec.space[name]
        keys = set()
        for value in parameter.choices or (parameter.low, parameter.high):
            point = self._completed(
                {**default, **{other: values[0] for other, values in parameter.when.items()}, name: value}
            )
            keys.add(tuple(stage_keys(self.search.run(point), {}).items()))
        if len(keys) == 1:
            self._complain(
                ("space", name),
                "changes nothing: the part that it sets is switched off, or lies outside what a run is made of",
            )

    def _completed(self, point: Point) -> Point:
        """With the default's value, or the first legal one, for parameters that a choice brings with it; without those it takes away."""
        whole: Point = {}
        for name, parameter in self.search.spec.space.items():
            if self.search.active(whole, name):
                value = point.get(name, value_at(self.search.default, name))
                legal = _fits(parameter, value) or name in point
                whole[name] = value if legal else (parameter.choices or [parameter.low])[0]
        return whole

    def _start(self, index: int, start: Mapping[str, Any], default: Point) -> None:
        for name, value in start.items():
            if name not in self.search.spec.space:
                self._complain(
                    ("start", index, name), f"is no parameter; space has: {', '.join(self.search.spec.space)}"
                )
            if not _fits(self.search.spec.space[name], value):
                self._complain(("start", index, name), f"{value!r} lies outside of its range")
        self.search.run(self._completed({**default, **start}))


def start_points(search: Search) -> list[Point]:
    """The default, then the points that the file names, what they leave out as in the default."""
    default = search.point_of(search.default)
    complete = _Checker(search, Doc({}))._completed
    return [default, *(complete({**default, **start}) for start in search.spec.start)]


def value_at(spec: RunSpec, path: str) -> Any:
    """The value of a field."""
    found: Any = spec
    for step in path.split("."):
        found = found[step] if isinstance(found, Mapping) else getattr(found, step)
    return found


def number_kind(path: str) -> str | None:
    """`integer` or `number`, of a field that may be one."""
    return _number_kind(field_schema(RunSpec, path))


def _number_kind(schema: Mapping[str, Any]) -> str | None:
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    return "number" if "number" in kinds else "integer" if "integer" in kinds else None


def _fits(parameter: Parameter, value: Any) -> bool:
    if parameter.choices:
        return any(value == choice and type(value) is type(choice) for choice in parameter.choices)
    low, high = parameter.low, parameter.high
    if isinstance(value, bool) or not isinstance(value, int | float) or low is None or high is None:
        return False
    if not low <= value <= high:
        return False
    steps = (value - low) / parameter.step if parameter.step else 0.0
    return abs(steps - round(steps)) < 1e-8
