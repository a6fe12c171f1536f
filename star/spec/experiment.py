"""An experiment: a base, rows or axes, seeds, and the table to make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from star.spec.base import FieldError, Section
from star.spec.run import RunSpec

Target = Literal["tokenizer", "encode", "reference", "train", "generate", "score", "probe", "attention", "invariance"]


class Column(Section):
    """One column: a spec field, a row's own cell, or a measured number."""

    title: str = Field(description="head of the column")
    latex: str | None = Field(None, description="the head in LaTeX, when it differs")
    label: bool = Field(False, description="shows the row's label")
    cell: str | None = Field(None, description="shows this entry of the row's `cells`")
    spec: str | None = Field(None, description="shows this field of the row's spec, as a dotted path")
    metric: str | None = Field(None, description="shows this result, as stage/name")
    check: bool = Field(False, description="a spec field as a check mark: on when it is neither 0 nor false")
    better: Literal["lower", "higher"] | None = Field(None, description="which values are best")
    published: str | None = Field(None, description="the published table's column to stand beside it")
    scale: float = Field(1.0, description="factor before printing: 100 for per cent")
    digits: Annotated[int, Field(ge=0, le=6)] = 2

    @model_validator(mode="after")
    def _one_source(self) -> Column:
        if sum((self.label, self.cell is not None, self.spec is not None, self.metric is not None)) != 1:
            raise FieldError("title", f"column {self.title!r} shows exactly one of label, cell, spec and metric")
        return self


class TableSpec(Section):
    """The table that `report` writes."""

    caption: str
    published: str | None = Field(None, description="the published table to compare with, such as table4")
    match: dict[str, str] = Field(
        default_factory=dict, description="published column -> spec path: a row's published row agrees in all of them"
    )
    columns: list[Column] = Field(min_length=1)
    note: str | None = None


class CurveSpec(Section):
    """A metric by its step, such as probe accuracy by position, to show beside the table."""

    title: str
    metric: str = Field(description="shows these numbers, as stage/name")
    scale: float = Field(1.0, description="factor before printing: 100 for per cent")
    digits: Annotated[int, Field(ge=0, le=6)] = 2


class Row(Section):
    """One variant: what differs from the base."""

    label: str = Field(min_length=1)
    use: list[str] = Field(default_factory=list, description="presets of the profile, applied in order")
    spec: dict[str, Any] = Field(default_factory=dict, description="a partial spec")
    cells: dict[str, str | int | float] = Field(default_factory=dict, description="texts for columns")
    published: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="what picks its published row"
    )


class ExperimentSpec(Section):
    """One YAML file of `experiments/`."""

    experiment: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="its name, also of its folder under reports/")
    title: str
    profile: str = Field("fashion", description="the profile to run at unless --profile says otherwise")
    use: list[str] = Field(default_factory=list, description="presets of the profile for every row")
    base: dict[str, Any] = Field(default_factory=dict, description="a partial spec over the profile's")
    axes: dict[str, list[Any]] = Field(
        default_factory=dict, description="dotted path -> values; rows are their product"
    )
    rows: list[Row] = Field(default_factory=list)
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field([0], min_length=1)
    targets: list[Target] = Field(["score", "probe"], min_length=1, description="the stages to reach")
    table: TableSpec
    curves: list[CurveSpec] = Field(default_factory=list)

    @model_validator(mode="after")
    def _rows_or_axes(self) -> ExperimentSpec:
        if bool(self.axes) == bool(self.rows):
            raise FieldError("rows", "give either rows or axes")
        if len(set(self.seeds)) != len(self.seeds):
            raise FieldError("seeds", "a seed stands twice")
        labels = [row.label for row in self.rows]
        for i, label in enumerate(labels):
            if label in labels[:i]:
                raise FieldError(f"rows.{i}.label", f"the label {label!r} stands twice; each row needs its own")
        return self


class ProfileSpec(Section):
    """The scale to run at: a partial spec, and named partial specs that rows may use."""

    description: str
    base: dict[str, Any]
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One row, resolved: its label and one RunSpec per seed."""

    label: str
    row: Row
    runs: tuple[RunSpec, ...]


@dataclass(frozen=True)
class Experiment:
    """A YAML file, resolved at a profile."""

    file: str
    spec: ExperimentSpec
    profile: str
    variants: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.spec.experiment

    @property
    def targets(self) -> tuple[str, ...]:
        """The stages to reach."""
        return tuple(self.spec.targets)
