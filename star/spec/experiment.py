"""An experiment: a base, rows or axes, seeds, and the table, figures and claims to make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from star.errors import SpecError
from star.spec.base import FieldError, Section, Seed
from star.spec.builtin import builtin_runs, builtin_stages, pipeline
from star.spec.claims import Claim, Method
from star.spec.graph import Stage, needed_of
from star.spec.own_stages import check_stages, own_stages, with_terms
from star.spec.plugin_parts import Plugin
from star.spec.renames import OF_FILES, OF_ROWS, under_new_names
from star.spec.reporting import Against, Figure, Name, TableSpec
from star.spec.run_base import Run, value_at
from star.spec.run_class import ScriptRun, run_class
from star.spec.scripts import ScriptStage
from star.spec.yamldoc import LocatedYaml, SourceLocation
from star.words import meant

DEFAULT_PROFILE = "fashion"
"""The profile of a file that names none."""
PLUGINS = (
    "a list of files of your own, from the experiment's folder, or of installed plugins, such as `[my_lab.py]`; what they declare can be "
    "used by runs, and their contents are in the key of what does"
)


def _goals() -> list[str]:
    """Names of the built-in stages that can be targets of an experiment."""
    return [stage.name for stage in builtin_stages().values() if stage.is_target]


@cache
def taken_names() -> tuple[str, ...]:
    """Names that a user's own stage cannot have: fields and attributes of runs and of resources."""
    kinds = (builtin_runs().plain, ScriptRun, builtin_runs().resources)
    fields = (name for kind in kinds for name in (*kind.model_fields, *dir(kind)))
    return ("stages", "plugins", "terms", "system", "own", *fields)


class Declared(Section):
    """What decides which fields the runs of a file have."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    stages: dict[str, ScriptStage] = Field(default_factory=dict)
    plugins: dict[str, Plugin] = Field(default_factory=dict)
    targets: list[str] | None = None

    @model_validator(mode="after")
    def _names(self) -> Declared:
        check_stages(self.stages, self.plugins, taken_names())
        return self

    @property
    def own(self) -> dict[str, Stage]:
        """All stages that the file declares, by name: its commands, and its plugins' stages."""
        return own_stages(self.stages, self.plugins)

    def check(self, targets: Sequence[str]) -> None:
        """Check that all of these stages can be targets.

        Raises:
            FieldError: one cannot.
        """
        legal = [*self.own, *_goals()]
        for i, target in enumerate(targets):
            if target not in legal:
                raise FieldError(
                    f"targets.{i}", f"{target!r} is no stage to reach{meant(target, legal)}; give {', '.join(legal)}"
                )

    def run_class(self) -> type[Run]:
        """The class of the file's runs; with the built-in pipeline's sections unless only its own stages are needed."""
        own = self.own
        targets = self.targets or list(self.stages)
        full = not targets or not set(needed_of(targets, {**builtin_stages(), **own})) <= set(own)
        return run_class(self.stages, full, self.plugins)


def pipeline_of(declared: Declared) -> Mapping[str, Stage]:
    """All stages that a file's runs may have, by name: built-in ones, if runs have their sections, and its own."""
    if not declared.stages and not declared.plugins:
        return builtin_stages()
    own, builtin = declared.own, declared.run_class().declared_stages
    return with_terms({**builtin, **own}, declared.plugins)


class Row(Section):
    """One variant: what differs from the base."""

    label: str = Field(min_length=1)
    use: list[str] = Field(default_factory=list, description="presets of the profile, applied in order")
    spec: dict[str, Any] = Field(default_factory=dict, description="a partial spec")
    cells: dict[str, str | int | float] = Field(default_factory=dict, description="texts for columns")
    group: str | None = Field(None, description="rows of one group stand together under this head")
    published: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="what picks its published row"
    )
    paper_only: bool = Field(
        False,
        description="only the literature has it: nothing runs, unless `generate.samples` names images that are there",
    )

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        return under_new_names(values, OF_ROWS)


class ExperimentSpec(Section):
    """One YAML file of `experiments/`."""

    experiment: Name = Field(description="its name, also of its folder under reports/")
    title: str
    profile: str = Field(
        DEFAULT_PROFILE,
        description="the profile to run at unless --profile says otherwise; runs of commands alone need none",
    )
    use: list[str] = Field(
        default_factory=list, description="presets of the profile for every row", examples=[["B", "50ep"]]
    )
    base: dict[str, Any] = Field(default_factory=dict, description="a partial spec over the profile's")
    axes: dict[str, list[Any]] = Field(
        default_factory=dict, description="dotted path -> values; each row stands at every point of their product"
    )
    one_at_a_time: bool = Field(
        False,
        description="of several axes: each row stands at each value of one axis with the others at the value that rows have without them, "
        "which is one of theirs, in place of the whole product",
    )
    rows: list[Row] = Field(default_factory=list)
    seeds: list[Seed] = Field([0], min_length=1, examples=[[0, 1, 2]])
    interval: Method = Field(
        "welch",
        description="of differences between rows over seeds: `welch` lets each row have its own spread, `paired` takes differences "
        "seed by seed, `block` one spread of all rows, after a check, `bootstrap` resamples seeds (from five on); choose before "
        "there are results: reports show a later change",
    )
    looks: list[Annotated[int, Field(ge=2, le=1000)]] = Field(
        [3, 5, 8, 12, 20],
        min_length=1,
        description="with `--seeds auto`: the numbers of seeds at which open claims are looked at",
    )
    stages: dict[str, ScriptStage] = Field(
        default_factory=dict,
        description="commands of your own as stages; each has a section of its name in the spec of a run",
    )
    plugins: dict[str, Plugin] = Field(default_factory=dict, description=PLUGINS)
    targets: list[str] = Field(
        default_factory=lambda: list(pipeline().targets),
        min_length=1,
        description=f"the stages to reach: {', '.join(_goals())}, and those of `stages`, which are all reached unless some are named",
    )
    metrics: dict[Name, str] = Field(
        default_factory=dict,
        description='own numbers: name -> formula over tracked ones, such as "[probe/accuracy] * 100"',
    )
    against: dict[Name, Against] = Field(
        default_factory=dict,
        description="own numbers: name -> a metric of each run, set against the same seed's runs of other rows",
    )
    published_values: str | None = Field(
        None, description="YAML file of published values, beside this file; ST-AR's by default"
    )
    table: TableSpec | None = None
    figures: list[Figure] = Field(default_factory=list)
    claims: list[Claim] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        return under_new_names(values, OF_FILES)

    @model_validator(mode="after")
    def _stages(self) -> ExperimentSpec:
        declared = self._declared
        if self.stages and "targets" not in self.model_fields_set:
            object.__setattr__(self, "targets", list(self.stages))
        declared.check(self.targets)
        return self

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """All stages that the experiment's runs may have, by name."""
        return pipeline_of(self._declared)

    @property
    def run_class(self) -> type[Run]:
        """The class of the experiment's runs."""
        return self._declared.run_class()

    @property
    def _declared(self) -> Declared:
        return Declared.model_construct(stages=self.stages, plugins=self.plugins, targets=self.targets)

    @model_validator(mode="after")
    def _something_to_show(self) -> ExperimentSpec:
        if self.table is None and not self.figures and not self.claims:
            raise FieldError("table", "an experiment shows something: give a table, figures or claims")
        for path, names in (("figures", [f.name for f in self.figures]), ("claims", [c.id for c in self.claims])):
            for i, name in enumerate(names):
                if name in names[:i]:
                    raise FieldError(f"{path}.{i}", f"the name {name!r} stands twice; each needs its own")
        return self

    @model_validator(mode="after")
    def _rows_or_axes(self) -> ExperimentSpec:
        if not self.axes and not self.rows:
            raise FieldError("rows", "give rows, axes, or both")
        if self.one_at_a_time and len(self.axes) < 2:
            raise FieldError("one_at_a_time", f"is for several axes, and there are {len(self.axes)}; leave it out")
        if len(set(self.seeds)) != len(self.seeds):
            raise FieldError("seeds", "a seed stands twice")
        if self.looks != sorted(set(self.looks)):
            raise FieldError("looks", "numbers of seeds rise from look to look")
        labels = [row.label for row in self.rows]
        for i, label in enumerate(labels):
            if label in labels[:i]:
                raise FieldError(f"rows.{i}.label", f"the label {label!r} stands twice; each row needs its own")
        return self


class ProfileSpec(Section):
    """The scale to run at: a partial spec, and named partial specs that rows may use."""

    description: str = Field(description="for people: data, sizes, machine")
    base: dict[str, Any] = Field(description="sections of a run, which every row starts from")
    presets: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="name -> sections of a run; rows and experiments take some by `use: [B, 50ep]`",
    )


def measured_rows(experiment: Experiment) -> list[str]:
    """Labels of the rows that have runs, and are not only quoted from the literature."""
    return [variant.label for variant in experiment.variants if variant.runs]


@dataclass(frozen=True)
class Variant:
    """One row, resolved: its label and one run per seed."""

    label: str
    row: Row
    runs: tuple[Run, ...]
    """One run per seed; empty if the row is only quoted."""
    axes: tuple[str, ...] = ()
    """Dotted paths of the experiment's axes."""
    own_label: str = ""
    """The label that the file gives the row, without its values on the axes."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Axis -> its part of the label, such as `lr=0.1`; without axes that change nothing in this row."""
    written: LocatedYaml | None = field(default=None, repr=False, compare=False)
    """The values of its runs with the places where they were written; None where no file says them."""

    def location(self, path: str) -> SourceLocation | None:
        """Where the value at a dotted path was written; None for a default."""
        return None if self.written is None else self.written.locations.get(tuple(path.split(".")))

    def value(self, path: str) -> Any:
        """The value of a field at a dotted path; None for a row that is only quoted, or has no such field."""
        try:
            return value_at(self.runs[0], path) if self.runs else None
        except (KeyError, AttributeError):  # of a mapping that lacks it, or of None
            return None

    def is_varied(self, path: str) -> bool:
        """Whether this row has a value of its own at `path`; False for an axis that changes nothing in this row."""
        return path not in self.axes or path in self.places


def axis_name(axis: str, axes: Iterable[str]) -> str:
    """The name of an axis in labels: its last part, or the whole path if another axis ends in the same name."""
    name = axis.rsplit(".", 1)[-1]
    return axis if any(other != axis and other.rsplit(".", 1)[-1] == name for other in axes) else name


def _is_called(label: str, pattern: str) -> bool:
    """Whether a pattern of `--rows` means a row; a label is its own pattern, whatever brackets it has."""
    return label == pattern or fnmatchcase(label, pattern)


@dataclass(frozen=True)
class Experiment:
    """An experiment's file, resolved at a profile."""

    file: str
    spec: ExperimentSpec
    profile: str
    variants: tuple[Variant, ...]
    written: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of YAML files that give the same experiment, changes of the command line included."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about what was left out or merged."""
    seeding: Literal["file", "given", "auto"] = "file"
    """Where its seeds are from: the file, the command line, or added while claims are open."""

    def only(self, patterns: Sequence[str]) -> Experiment:
        """The experiment with only the rows whose label matches a pattern (`*`, `?`, `[BL]`); no patterns: all rows.

        Raises:
            SpecError: a pattern matches no row.
        """
        for pattern in patterns:
            if not any(_is_called(variant.label, pattern) for variant in self.variants):
                labels = "; ".join(variant.label for variant in self.variants)
                raise SpecError(f"--rows {pattern}: matches no row of {self.file}; the rows are: {labels}.")
        kept = [v for v in self.variants if not patterns or any(_is_called(v.label, one) for one in patterns)]
        return replace(self, variants=tuple(kept))

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.spec.experiment

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the targets and of all stages that they need, each after its inputs."""
        return needed_of(self.targets, self.spec.pipeline)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the stages to reach."""
        return tuple(self.spec.targets)
