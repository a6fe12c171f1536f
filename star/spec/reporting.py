"""What a report shows of an experiment: its table and its figures. Its claims are in `claims.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from star.spec.base import Count, FieldError, Finite, Section, is_new, text_like

Better = Literal["lower", "higher"]


def _above_zero(scale: float, info: ValidationInfo) -> float:
    if scale <= 0 and (scale == 0 or is_new(info)):
        raise ValueError("give a factor above 0; the negative of a number is a formula of `metrics`")
    return scale


Name = Annotated[
    str,
    text_like(
        r"^[a-z0-9][a-z0-9_-]{0,99}$",
        "at most 100 small letters, digits, - and _, of which the first is a letter or a digit",
    ),
]
Scale = Annotated[Finite, AfterValidator(_above_zero)]


class Against(Section):
    """A metric of each run, set against that of the same seed's run of another row, or of several that cost as much."""

    value: str = Field(description="the metric: stage/name, stage/curve@where, or a formula of `metrics`")
    rows: list[str] = Field(min_length=1, description="labels of the rows to compare with; several want `along`")
    along: str | None = Field(
        None,
        description="a metric, such as train/flops, along which rows are interpolated: on straight lines over its logarithm, no further",
    )
    kind: Literal["difference", "ratio"] = "difference"

    @model_validator(mode="after")
    def _several(self) -> Against:
        if (len(self.rows) > 1) != (self.along is not None):
            raise FieldError(
                "along", "several rows are interpolated along a metric, and one row is not; give both or neither"
            )
        return self


class Column(Section):
    """One column: a spec field, a row's own cell, or a measured number."""

    title: str = Field(description="head of the column")
    latex: str | None = Field(None, description="the head in LaTeX, when it differs")
    label: bool = Field(False, description="shows the row's label")
    cell: str | None = Field(None, description="shows this entry of the row's `cells`")
    spec: str | None = Field(None, description="shows this field of the row's spec, as a dotted path")
    metric: str | None = Field(
        None, description="shows this number: stage/name, stage/curve@where, or one of `metrics`"
    )
    parameters: bool = Field(False, description="shows the number of the transformer's parameters")
    check: bool = Field(False, description="a spec field as a check mark: on when it is neither 0 nor false")
    better: Better | None = Field(None, description="which values are best")
    published: str | None = Field(None, description="the published table's column to compare with")
    scale: Scale = Field(1.0, description="factor before printing: 100 for per cent")
    digits: Annotated[int, Field(ge=0, le=6)] = 2

    @model_validator(mode="after")
    def _one_source(self) -> Column:
        sources = (self.label, self.cell is not None, self.spec is not None, self.metric is not None, self.parameters)
        if sum(sources) != 1:
            raise FieldError(
                "title", f"column {self.title!r} shows exactly one of label, cell, spec, metric and parameters"
            )
        if self.metric is None and not {"better", "scale", "digits"}.isdisjoint(self.model_fields_set):
            raise FieldError("title", f"column {self.title!r} shows no metric: better, scale and digits are for those")
        if self.check and self.spec is None:
            raise FieldError("check", f"column {self.title!r} shows no spec field: only those become a check mark")
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
    baseline: str | list[str] | None = Field(
        None, description="label of the row that the others' differences are taken from, or a list of such"
    )
    noise: str | None = Field(
        None,
        description="spec path of an axis that measures a model again, such as `generate.draw`: the report tells the noise of measuring "
        "from that of training",
    )
    spread: Literal["std", "interval"] = Field(
        "std", description="after the mean: the seeds' standard deviation, or half the 95% t interval"
    )
    latex: list[Literal["rows", "star", "no-notes"]] = Field(
        default_factory=list,
        description="of table.tex: `rows` alone, for a tabular of your own; a `table*` over both columns; without notes",
    )
    paper: Literal["beside", "below"] = Field("beside", description="where published values stand")
    grid: list[str] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="two spec paths, [down, across]: each measured column as a grid of their values, in place of a line per row",
    )

    @property
    def baselines(self) -> list[str]:
        """Labels of the rows that the others' differences are taken from."""
        return list(dict.fromkeys([self.baseline] if isinstance(self.baseline, str) else self.baseline or []))

    @model_validator(mode="after")
    def _heads(self) -> TableSpec:
        if self.paper == "below" and self.columns[0].metric is not None:
            raise FieldError(
                "columns.0", "with `paper: below` the first column names the row: a label, cell, spec or parameters"
            )
        if self.grid is not None and self.grid[0] == self.grid[1]:
            raise FieldError("grid", f"{self.grid[0]!r} stands twice; a grid has one field down and another across")
        titles = [column.title for column in self.columns]
        for i, title in enumerate(titles):
            if title in titles[:i]:
                raise FieldError(f"columns.{i}.title", f"the title {title!r} stands twice; each column needs its own")
        return self


class FigureSpec(Section):
    """The fields that every kind of figure has."""

    name: Name = Field(description="of its files")
    title: str
    rows: list[str] = Field(default_factory=list, description="labels of the rows to show; all of them by default")


class CurvesFigure(FigureSpec):
    """A metric by its step (position, layer, shift, optimizer step), a line per row with a band over seeds."""

    kind: Literal["curves"]
    metric: str = Field(description="a curve, as stage/name")
    scale: Scale = Field(1.0, description="factor before printing: 100 for per cent")
    digits: Annotated[int, Field(ge=0, le=6)] = 2
    published: str | None = Field(None, description="published curves to show in a panel beside")
    series: dict[str, str] = Field(default_factory=dict, description="row -> the published curve that is its own")


class AblationFigure(FigureSpec):
    """The table's measured columns against the value that the rows differ in, a line for each value of what else differs."""

    kind: Literal["ablation"]
    x: str = Field(description="the ablated field, as a dotted path")
    columns: list[str] = Field(default_factory=list, description="titles of the columns to plot; all measured ones")


class TrendFigure(FigureSpec):
    """Differences of a row to others along axes, with 95% intervals, a line through them and where it would be zero."""

    kind: Literal["trend"]
    rows: list[str] = Field(default_factory=list, description="of other figures: `row` and `than` name a trend's rows")
    x: list[str] = Field(min_length=1, description="axes of the experiment, each with numbers, at least three")
    row: str = Field(description="label of a row, as the file has it")
    than: list[str] = Field(min_length=1, description="labels of the rows that it is compared with")
    columns: list[str] = Field(default_factory=list, description="titles of the columns to plot; all measured ones")


class RankingFigure(FigureSpec):
    """Rows in the order of a column, from the best down, with the ranks that differences leave open, and what would decide."""

    kind: Literal["ranking"]
    column: str = Field(description="title of a measured column of the table that says which values are `better`")


class AttentionFigure(FigureSpec):
    """Where models look: attention maps of one head average over images, layers or positions, a model per band of rows."""

    kind: Literal["attention"]
    vary: Literal["layer", "position", "image"] = Field("layer", description="what changes from left to right")
    layer: Count | None = Field(None, description="1-based; the last by default")
    position: Count | None = Field(
        None, description="which of the stored positions, 1-based; the middle one by default"
    )
    images: Count = Field(2, description="images shown, the first ones of the test set")


class CodesFigure(FigureSpec):
    """Two slightly shifted views of images, and which of their codes differ."""

    kind: Literal["codes"]
    shift: Count = Field(1, description="pixels; one of the shifts that are measured")
    images: Count = 4


class SamplesFigure(FigureSpec):
    """Sample grids of rows beside each other: a class in each line, the same random numbers in all."""

    kind: Literal["samples"]


Figure = Annotated[
    CurvesFigure | AblationFigure | TrendFigure | RankingFigure | AttentionFigure | CodesFigure | SamplesFigure,
    Field(discriminator="kind"),
]
