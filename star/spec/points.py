"""A search resolved at a profile: its points, and the runs at these points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from star.spec.experiment import Experiment, ExperimentSpec, Row, Variant
from star.spec.explain import field_schema, validated
from star.spec.measure import Measure, parse_measure
from star.spec.run_base import Run, value_at
from star.spec.search import Parameter, SearchSpec
from star.spec.yamldoc import LocatedYaml, SourceLocation, nested, overlay

Point = dict[str, Any]
"""Dotted path -> value of each active parameter."""
EARLY = "-early"
"""Suffix of the search's name for the experiment of runs that end before their last step."""


@dataclass(frozen=True)
class Search:
    """A search, resolved at a profile."""

    file: str
    spec: SearchSpec
    profile: str
    profile_file: Path | None
    """The profile's file; None if the runs need no profile."""
    base: LocatedYaml
    locations: Mapping[str, SourceLocation | None]
    """Parameter -> where it is written in the file."""
    default: Run
    """The run with the base's own values."""
    comparison: LocatedYaml
    """Partial spec that the pruner lays over a run for comparisons before the end."""
    written: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of YAML files that give the same search, changes of the command line included."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.search

    @property
    def measures(self) -> list[Measure]:
        """The metric of each objective, parsed."""
        return [parse_measure(objective.metric, self.spec.pipeline) for objective in self.spec.objectives]

    @property
    def targets(self) -> tuple[str, ...]:
        """The stages that a whole trial reaches: those of its objectives, and the file's `targets`."""
        return tuple(dict.fromkeys([*(str(m.stage) for m in self.measures), *self.spec.targets]))

    def active(self, point: Mapping[str, Any], name: str) -> bool:
        """Whether a parameter is active at a point, which must hold all active parameters above it."""
        return all(other in point and point[other] in values for other, values in self.spec.space[name].when.items())

    def point_of(self, spec: Run) -> Point:
        """The point of a run: its values of all active parameters."""
        point: Point = {}
        for name in self.spec.space:
            if self.active(point, name):
                point[name] = value_at(spec, name)
        return point

    def contains(self, point: Mapping[str, Any]) -> bool:
        """Whether the search allows all values of a point."""
        return all(fits(self.spec.space[name], value) for name, value in point.items())

    def rungs(self, spec: Run) -> list[int]:
        """Steps at which a trial is compared with others before its end."""
        pruner, training = self.spec.pruner, spec.training
        steps: list[int] = []
        step = pruner.min_steps
        while step is not None and training is not None and step < training.steps:
            steps.append(step)
            step *= pruner.reduction
        return steps

    def run(self, point: Mapping[str, Any], until: int | None = None) -> Run:
        """The run at a point. With `until` it ends after that step, and is measured as `pruner.spec` says.

        Raises:
            SpecError: the values do not fit together.
        """
        doc = self.base
        for name, value in point.items():
            location = self.locations.get(name) or SourceLocation(self.file)
            doc = overlay(doc, nested(tuple(name.split(".")), tidied(self.spec.space[name], value), location))
        if until is not None:
            doc = overlay(doc, self.comparison)
            assert self.default.training is not None, "checked when the file was read"
            steps = tuple(self.default.training.until.split("."))
            doc = overlay(doc, nested(steps, until, SourceLocation(self.file)))
        return validated(type(self.default), doc, self.file)

    def early(self, label: str, until: int, spec: Run) -> Experiment:
        """A trial's runs up to the comparison at step `until`: an experiment that reaches only the first objective."""
        target = str(self.measures[0].stage)
        name = f"{self.name}{EARLY}"
        return self.experiment([(early_label(label, until), spec)], self.spec.seeds, [target], experiment=name)

    def experiment(
        self,
        rows: Sequence[tuple[str, Run]],
        seeds: Sequence[int],
        targets: Sequence[str],
        cells: Mapping[str, dict[str, str | int | float]] | None = None,
        **more: Any,
    ) -> Experiment:
        """Runs with labels as an experiment that can be planned, run and reported.

        Args:
            cells: label -> texts for columns of its table.
            more: further fields of the experiment's spec.
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
            "stages": self.spec.stages,
            "plugins": self.spec.plugins,
        }
        spec = ExperimentSpec.model_construct(**{**about, **more})
        written = self.written if spec.experiment == self.name else {}
        return Experiment(self.file, spec, self.profile, variants, written)


def early_label(label: str, until: int) -> str:
    """Label of the row with a trial's runs up to the comparison at step `until`."""
    return f"{label}, {until} steps"


def completed(search: Search, point: Mapping[str, Any]) -> Point:
    """The point with exactly its active parameters. A missing one gets the default's value, or the first legal one."""
    whole: Point = {}
    for name, parameter in search.spec.space.items():
        if search.active(whole, name):
            value = point.get(name, value_at(search.default, name))
            legal = fits(parameter, value) or name in point
            whole[name] = value if legal else (parameter.choices or [parameter.low])[0]
    return whole


def start_points(search: Search) -> list[Point]:
    """The default point, then the file's `start` points, completed with values of the default."""
    default = search.point_of(search.default)
    return [default, *(completed(search, {**default, **start}) for start in search.spec.start)]


def number_kind(search: Search, path: str) -> str | None:
    """`integer` or `number` if the field at a dotted path may be one, else None."""
    return number_kind_of(field_schema(type(search.default), path))


def number_kind_of(schema: Mapping[str, Any]) -> str | None:
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    return "number" if "number" in kinds else "integer" if "integer" in kinds else None


def tidied(parameter: Parameter, value: Any) -> Any:
    """A value rounded to its step: a sampler's 0.30000000000000004 and the 0.3 of a file must be one run."""
    if parameter.step is None or parameter.low is None or not isinstance(value, float):
        return value
    low, step = Decimal(str(parameter.low)), Decimal(str(parameter.step))
    return float(low + step * round((Decimal(str(value)) - low) / step))


def fits(parameter: Parameter, value: Any) -> bool:
    """Whether a parameter may have a value."""
    if parameter.choices:
        return any(
            value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in parameter.choices
        )
    low, high = parameter.low, parameter.high
    if isinstance(value, bool) or not isinstance(value, int | float) or low is None or high is None:
        return False
    if not low <= value <= high:
        return False
    steps = (value - low) / parameter.step if parameter.step else 0.0
    return abs(steps - round(steps)) < 1e-8
