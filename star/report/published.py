"""Published values: a paper's tables and curves, and the published row that belongs to a measured row."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from star.errors import SpecError
from star.spec.base import FieldError, Section
from star.spec.experiment import Experiment, Variant
from star.spec.explain import validated
from star.spec.extends import read_extended
from star.spec.reporting import CurvesFigure, TableSpec
from star.spec.yamldoc import Path_, parse, read
from star.words import meant

Value = str | int | float | bool | None
BUILT_IN = "st-ar.yaml"


class PublishedCurves(Section):
    """Curves of one figure."""

    steps: list[int] = Field(min_length=1)
    series: dict[str, list[float | None]] = Field(min_length=1)

    @model_validator(mode="after")
    def _lengths(self) -> PublishedCurves:
        for name, values in self.series.items():
            if len(values) != len(self.steps):
                raise FieldError(f"series.{name}", f"has {len(values)} values for {len(self.steps)} steps")
        return self


class Published(Section):
    """A file of published values."""

    source: str = Field(description="what a report calls it, such as the paper's number and data set")
    tables: dict[str, list[dict[str, Value]]] = Field(
        default_factory=dict, description="table -> rows -> column -> value"
    )
    curves: dict[str, PublishedCurves] = Field(default_factory=dict)


def published_of(experiment: Experiment) -> Published:
    """The published values of an experiment: from the file that it names, or else the built-in values of ST-AR.

    Raises:
        SpecError: the file is missing or invalid.
    """
    name = experiment.spec.published_values
    return _built_in() if name is None else _read(str(Path(experiment.file).parent / name))


@cache
def _built_in() -> Published:
    text = resources.files("star.report").joinpath("published_values").joinpath(BUILT_IN).read_text(encoding="utf-8")
    return validated(Published, parse(text, BUILT_IN), BUILT_IN)


@cache
def _read(path: str) -> Published:
    return validated(Published, read(Path(path)), path)


def check(experiment: Experiment) -> None:
    """Check that all published values that an experiment refers to exist, before anything is computed.

    Raises:
        SpecError: an unknown table, column or curve; a row without a published table to look in, or a quoted row
            without a published row; or a row that matches several published rows.
    """
    layout = experiment.spec.table
    for variant in experiment.variants:
        if variant.row.paper_only and layout and not (variant.row.published and layout.published):
            raise SpecError(
                f"{_row(experiment, variant)}: row {variant.label!r} is quoted: say from where, with `published:` in the row and in "
                "the table."
            )
    for i, figure in enumerate(experiment.spec.figures):
        if isinstance(figure, CurvesFigure) and figure.published is not None:
            published = published_of(experiment)
            _known(
                figure.published,
                list(published.curves),
                experiment,
                ("figures", i, "published"),
                "published curves",
            )
            series = list(published.curves[figure.published].series)
            for own, name in figure.series.items():
                _known(name, series, experiment, ("figures", i, "series", own), f"curve of {figure.published}")
    if layout is None:
        return
    if layout.published is None:
        _refuse_published(experiment, layout)
        return
    published = published_of(experiment)
    _known(layout.published, list(published.tables), experiment, ("table", "published"), "published table")
    legal = sorted({column for row in published.tables[layout.published] for column in row})
    asked: list[tuple[str, Path_]] = [
        (column.published, ("table", "columns", i, "published"))
        for i, column in enumerate(layout.columns)
        if column.published
    ]
    asked += [(name, ("table", "match", name)) for name in layout.match]
    asked += [
        (name, ("rows", i, "published", name)) for i, row in enumerate(experiment.spec.rows) for name in row.published
    ]
    for name, path in asked:
        _known(name, legal, experiment, path, f"column of the published {layout.published}")
    for variant in experiment.variants:
        row_for(experiment, variant)


def _refuse_published(experiment: Experiment, layout: TableSpec) -> None:
    """Check that nothing stands beside published values where the table names none."""
    for i, column in enumerate(layout.columns):
        if column.published is not None:
            where = _at(experiment, "table", "columns", i, "published")
            raise SpecError(
                f"{where}: the column {column.title!r} stands beside a published one, but the table names no published table to look in; "
                "give `table.published`."
            )
    for variant in experiment.variants:
        if variant.row.published or layout.match:
            raise SpecError(
                f"{_row(experiment, variant)}: row {variant.label!r} stands beside a published one, but the table names no published table "
                "to look in; give `table.published`."
            )


def _known(name: str, legal: list[str], experiment: Experiment, path: Path_, what: str) -> None:
    if name not in legal:
        told = f"{name!r} is no {what}{meant(name, legal)}; legal: {', '.join(legal) or 'none'}."
        raise SpecError(f"{_at(experiment, *path)}: {told}")


def _at(experiment: Experiment, *path: str | int) -> str:
    """`FILE:LINE: dotted.path` of what an experiment's file holds; without the line if the file is gone since."""
    try:
        location = read_extended(Path(experiment.file)).doc.location(path)
    except SpecError:
        location = None
    return f"{location or experiment.file}: {'.'.join(map(str, path))}"


def _row(experiment: Experiment, variant: Variant) -> str:
    labels = [row.label for row in experiment.spec.rows]
    own = variant.own_label or variant.label
    return _at(experiment, "rows", labels.index(own)) if own in labels else experiment.file


def row_for(experiment: Experiment, variant: Variant) -> dict[str, Any] | None:
    """The published row that agrees with a variant in everything the experiment matches on; None if there is none.

    Raises:
        SpecError: several rows agree, or none does and the row is only quoted.
    """
    table = experiment.spec.table
    if table is None or table.published is None:
        return None
    match = table.match if variant.runs else {}
    wanted = {column: variant.value(path) for column, path in match.items() if variant.is_varied(path)}
    wanted |= variant.row.published
    if not wanted:
        return None
    rows = published_of(experiment).tables[table.published]
    found = [row for row in rows if all(row.get(key, False) == value for key, value in wanted.items())]
    if len(found) > 1:
        raise SpecError(
            f"{_row(experiment, variant)}: row {variant.label!r} stands beside {len(found)} rows of the published {table.published}; "
            "say more in its `published`."
        )
    if not found and variant.row.published:
        what = "is quoted" if variant.row.paper_only else "stands beside a published one"
        raise SpecError(
            f"{_row(experiment, variant)}: row {variant.label!r} {what}, but the published {table.published} has no row with "
            f"{wanted}; fix its `published`."
        )
    return found[0] if found else None
