"""Checks, before anything is computed, that the metrics, rows and fields that an experiment's report names exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

from star.errors import SpecError
from star.spec.base import Section
from star.spec.claims import BestAt, Compares, DeclineAfter, Monotone, NoDeclineAfter
from star.spec.experiment import ExperimentSpec, Variant
from star.spec.explain import field_schema
from star.spec.graph import curve_names, file_of, needed_of
from star.spec.measure import Measure, parse_formula, parse_measure
from star.spec.reporting import (
    AblationFigure,
    Against,
    AttentionFigure,
    CodesFigure,
    CurvesFigure,
    RankingFigure,
    SamplesFigure,
    TableSpec,
    TrendFigure,
)
from star.spec.run_base import value_at
from star.spec.yamldoc import LocatedYaml
from star.words import meant

Where = tuple[str | int, ...]
FROM_FILES = (AttentionFigure, CodesFigure, SamplesFigure)
"""Figures drawn from a stage's output files, not from its numbers."""


class _Checker:
    def __init__(self, spec: ExperimentSpec, doc: LocatedYaml, name: str) -> None:
        self.spec, self.doc, self.name = spec, doc, name
        self.pipeline = spec.pipeline
        self.stages = needed_of(spec.targets, self.pipeline)

    def complain(self, where: Where, text: str) -> NoReturn:
        path = ".".join(map(str, where))
        raise SpecError(f"{self.doc.location(where) or self.name}: {path}: {text}.")

    def measure(self, text: str, where: Where, curves: bool = False, numbers: bool = True) -> None:
        """Check a metric's name. `curves` also allows whole curves; without `numbers`, only whole curves are legal."""
        if (text in self.spec.metrics or text in self.spec.against) and numbers:
            return
        if not numbers and text not in curve_names(self.pipeline):
            legal = list(curve_names(self.pipeline))
            self.complain(where, f"{text!r} is no curve{meant(text, legal)}; legal: {', '.join(legal)}")
        try:
            found = parse_measure(text, self.pipeline)
        except ValueError as error:
            own = [*self.spec.metrics, *self.spec.against]
            hint = f"; this file's own are {', '.join(own)}{meant(text, own)}" if own else ""
            self.complain(where, f"{error}{hint}")
        if found.is_curve and not curves:
            self.complain(where, f"{text!r} is a curve; say where to read it, such as {text}@last")
        self.reached(found, where)

    def reached(self, measure: Measure, where: Where) -> None:
        """Check that the experiment computes a measure."""
        if measure.stage is not None and measure.stage not in self.stages:
            self.complain(where, f"{measure.name!r} needs the stage {measure.stage}; add it to targets")

    def drawn(self, kind: str, where: Where) -> str:
        """The stage that makes the file from which this kind of figure is drawn."""
        made = {name: self.pipeline[name] for name in self.stages if name in self.pipeline}
        found, possible = file_of(made, kind), file_of(self.pipeline, kind)
        if found is None:
            which = (
                "a stage of which there is none" if possible is None else f"the stage {possible[0]}; add it to targets"
            )
            self.complain(where, f"such a figure needs {which}")
        return found[0]

    def field(self, path: str, where: Where) -> None:
        """Check that `path` is a field of a run."""
        try:
            field_schema(self.spec.run_class, path)
        except SpecError as error:
            self.complain(where, str(error))

    def labels(self, wanted: list[str], legal: list[str], where: Where) -> None:
        """Check that all `wanted` labels are rows of this experiment."""
        for label in wanted:
            if label not in legal:
                self.complain(where, f"{label!r} is no row{meant(label, legal)}; the rows are: {'; '.join(legal)}")


def check_report(spec: ExperimentSpec, doc: LocatedYaml, name: str) -> None:
    """Check the metrics and fields that columns, figures and claims name.

    Raises:
        SpecError: one does not exist; with file, line and dotted path.
    """
    check = _Checker(spec, doc, name)
    for own, text in spec.metrics.items():
        try:
            formula = parse_formula(text, spec.pipeline)
        except ValueError as error:
            check.complain(("metrics", own), str(error))
        for measure in formula.measures.values():
            check.reached(measure, ("metrics", own))
    for own, against in spec.against.items():
        _check_against(check, own, against)
    if spec.table is not None:
        _check_table(check, spec.table)
    for i, figure in enumerate(spec.figures):
        _check_figure(check, figure, ("figures", i))
    for i, claim in enumerate(spec.claims):
        for j, predicate in enumerate(claim.that):
            _check_predicate(check, predicate, ("claims", i, "that", j, "metric"))


def _check_against(check: _Checker, name: str, against: Against) -> None:
    """Check that what is compared is a formula or a tracked number."""
    where: Where = ("against", name)
    if name in check.spec.metrics:
        check.complain(where, f"{name!r} is one of `metrics` too; give it another name")
    for field, metric in (("value", against.value), ("along", against.along)):
        if metric is not None:
            if metric in check.spec.against:
                check.complain(
                    (*where, field), f"{metric!r} is a comparison itself; give a formula or a tracked number"
                )
            check.measure(metric, (*where, field))


def _check_table(check: _Checker, table: TableSpec) -> None:
    for i, column in enumerate(table.columns):
        if column.metric is not None:
            check.measure(column.metric, ("table", "columns", i, "metric"))
        if column.spec is not None:
            check.field(column.spec, ("table", "columns", i, "spec"))
    for published, path in table.match.items():
        check.field(path, ("table", "match", published))
    for i, path in enumerate(table.grid or ()):
        check.field(path, ("table", "grid", i))
    if table.grid and not any(column.metric for column in table.columns):
        check.complain(("table", "grid"), "lays out measured columns, and the table has none; give one a metric")
    axes = check.spec.axes
    if table.noise is not None and table.noise not in axes:
        legal = f"give one of the axes, {', '.join(axes)}" if axes else "add it to `axes`, with several values"
        check.complain(("table", "noise"), f"{table.noise!r} is no axis; {legal}")


def _check_figure(check: _Checker, figure: Section, where: Where) -> None:
    if isinstance(figure, CurvesFigure):
        check.measure(figure.metric, (*where, "metric"), curves=True, numbers=False)
    if isinstance(figure, AblationFigure):
        check.field(figure.x, (*where, "x"))
    if isinstance(figure, TrendFigure):
        _check_trend(check, figure, where)
    if isinstance(figure, AblationFigure | TrendFigure):
        titles = [c.title for c in check.spec.table.columns if c.metric] if check.spec.table else []
        if not titles:
            check.complain(where, f"kind {figure.kind} plots the measured columns of the table; give a table")
        for title in figure.columns:
            if title not in titles:
                check.complain(
                    (*where, "columns"),
                    f"{title!r} is no measured column{meant(title, titles)}; legal: {', '.join(titles)}",
                )
    if isinstance(figure, RankingFigure):
        _check_ranking(check, figure, where)
    if isinstance(figure, FROM_FILES):
        check.drawn(figure.kind, where)


def _check_ranking(check: _Checker, figure: RankingFigure, where: Where) -> None:
    columns = check.spec.table.columns if check.spec.table else []
    titles = [column.title for column in columns if column.metric and column.better]
    if figure.column not in titles:
        known = f"{meant(figure.column, titles)}; legal: {', '.join(titles)}" if titles else "; the table has none"
        check.complain(
            (*where, "column"), f"{figure.column!r} is no measured column that says which values are better{known}"
        )


def _check_trend(check: _Checker, figure: TrendFigure, where: Where) -> None:
    axes = check.spec.axes
    for i, path in enumerate(figure.x):
        if path not in axes:
            known = f"{meant(path, list(axes))}; the axes are: {', '.join(axes) or 'none'}"
            check.complain((*where, "x", i), f"{path!r} is no axis{known}")
        if len(axes[path]) < 3 or not all(type(value) in (int, float) for value in axes[path]):
            check.complain((*where, "x", i), f"a trend wants three numbers or more; {path} has {axes[path]!r}")
    labels = [row.label for row in check.spec.rows if not row.paper_only]
    if not labels:
        check.complain((*where, "row"), "a trend compares rows, and the file has axes alone; give rows")
    check.labels([figure.row], labels, (*where, "row"))
    check.labels(figure.than, labels, (*where, "than"))
    if figure.row in figure.than:
        check.complain((*where, "than"), f"compares {figure.row!r} with itself")
    for name in ("x", "than"):
        values = getattr(figure, name)
        if len(set(values)) < len(values):
            check.complain((*where, name), f"names one twice: {', '.join(values)}")
    if figure.rows:
        check.complain((*where, "rows"), "a trend names its rows in `row` and `than`; take it out")


def _check_predicate(check: _Checker, predicate: Section, where: Where) -> None:
    whole = isinstance(predicate, NoDeclineAfter | DeclineAfter)
    check.measure(predicate.metric, where, curves=whole or isinstance(predicate, Compares), numbers=not whole)  # type: ignore[attr-defined]


def check_rows(spec: ExperimentSpec, variants: Sequence[Variant], doc: LocatedYaml, name: str) -> None:
    """Check the row labels that the table, figures and claims name, and what figures need of the rows they show.

    Raises:
        SpecError: one is not legal; with file, line and dotted path.
    """
    check = _Checker(spec, doc, name)
    labels = [variant.label for variant in variants]
    for own, against in spec.against.items():
        check.labels(against.rows, labels, ("against", own, "rows"))
    if spec.table:
        check.labels(spec.table.baselines, labels, ("table", "baseline"))
        for label in spec.table.baselines:
            if not any(one.runs for one in variants if one.label == label):
                check.complain(("table", "baseline"), f"{label!r} is only quoted: nothing can be compared with it")
        _check_cells(check, spec.table, variants)
    if spec.table and spec.table.noise:
        _check_noise(check, spec.table.noise, variants)
    if spec.table and spec.table.grid:
        _check_grid(check, spec.table.grid, variants)
    _check_figure_rows(check, variants)
    for i, claim in enumerate(spec.claims):
        for j, predicate in enumerate(claim.that):
            where: Where = ("claims", i, "that", j)
            for key, wanted in _named_rows(predicate):
                check.labels(wanted, labels, (*where, key))
            _check_enough(check, predicate, [one.label for one in variants if one.runs], where)


def _check_noise(check: _Checker, axis: str, variants: Sequence[Variant]) -> None:
    """Check that what varies as noise of measuring changes no training."""
    for run in (one.runs[0] for one in variants if one.runs):
        trained = needed_of([run.training.stage], run.pipeline) if run.training else ()
        if any(axis.partition(".")[0] in run.pipeline[stage].sections for stage in trained):
            text = f"{axis} changes what is trained, and so is no noise of measuring; give an axis of a later stage, such as generate.draw"
            check.complain(("table", "noise"), text)


def _check_cells(check: _Checker, table: TableSpec, variants: Sequence[Variant]) -> None:
    """Check that a column of cells shows what some row has."""
    known = list(dict.fromkeys(name for one in variants for name in one.row.cells))
    for i, column in enumerate(table.columns):
        if column.cell is not None and column.cell not in known:
            text = f"no row has such a cell{meant(column.cell, known)}; the cells are: {', '.join(known) or 'none'}"
            check.complain(("table", "columns", i, "cell"), f"{column.cell!r}: {text}")


def _check_figure_rows(check: _Checker, variants: Sequence[Variant]) -> None:
    labels = [variant.label for variant in variants]
    for i, figure in enumerate(check.spec.figures):
        check.labels(figure.rows, labels, ("figures", i, "rows"))
        if isinstance(figure, TrendFigure):
            _check_varied(check, figure, variants, ("figures", i))
        if isinstance(figure, CodesFigure):
            shown = [variant for variant in variants if variant.runs and variant.label in (figure.rows or labels)]
            field = f"{check.drawn(figure.kind, ('figures', i))}.shifts"
            shifts = sorted({shift for variant in shown for shift in value_at(variant.runs[0], field)})
            if figure.shift not in shifts:
                text = f"{figure.shift} is not measured; {field} holds {', '.join(map(str, shifts)) or 'none'}"
                check.complain(("figures", i, "shift"), text)
        if isinstance(figure, CurvesFigure):
            runs = [one.runs[0] for one in variants if one.runs and one.label in (figure.rows or labels)]
            remedies = [remedy for run in runs if (remedy := run.not_recorded(figure.metric))]
            if runs and len(remedies) == len(runs):
                check.complain(("figures", i, "metric"), f"{figure.metric!r} is not recorded; {remedies[0]}")
            check.labels(list(figure.series), labels, ("figures", i, "series"))
            if figure.series and figure.published is None:
                check.complain(("figures", i, "series"), "belongs to published curves; name them with `published`")


def _check_varied(check: _Checker, figure: TrendFigure, variants: Sequence[Variant], where: Where) -> None:
    """Check that each axis of a trend changes something in a row that is compared."""
    for i, axis in enumerate(figure.x):
        for than in figure.than:
            both = [one for one in variants if one.runs and one.own_label in (figure.row, than)]
            if both and not any(one.is_varied(axis) for one in both):
                check.complain((*where, "x", i), f"{axis} changes nothing in {figure.row!r} or {than!r}; leave it out")


def _check_grid(check: _Checker, grid: list[str], variants: Sequence[Variant]) -> None:
    """Check that every row is measured and has a place of its own in the grid."""
    places: dict[tuple[str, ...], str] = {}
    for variant in variants:
        if not variant.runs:
            check.complain(
                ("table", "grid"), f"has no place for {variant.label!r}, which is quoted; leave one of them out"
            )
        place = tuple(str(variant.value(path)) for path in grid)
        if place in places:
            both = " and ".join(f"{path} {value}" for path, value in zip(grid, place, strict=True))
            check.complain(
                ("table", "grid"),
                f"the rows {places[place]!r} and {variant.label!r} both have {both}; rows must differ there",
            )
        places[place] = variant.label


def _check_enough(check: _Checker, predicate: Section, measured: list[str], where: Where) -> None:
    """Check that a predicate compares enough different rows, all of them measured."""
    for key, wanted in _named_rows(predicate):
        for label in wanted:
            if label not in measured:
                check.complain((*where, key), f"{label!r} is only quoted: it has no values of seeds to judge by")
    if isinstance(predicate, Compares):
        if predicate.row in predicate.than:
            check.complain((*where, "than"), f"compares {predicate.row!r} with itself")
        if len(set(predicate.than)) < len(predicate.than):
            check.complain((*where, "than"), "names a row twice")
    if isinstance(predicate, BestAt | Monotone):
        rows = predicate.rows or measured
        least = 3 if isinstance(predicate, Monotone) else 2
        if len(set(rows) | ({predicate.row} if isinstance(predicate, BestAt) else set())) < least:
            check.complain((*where, "rows"), f"wants {least} different rows or more")
        if len(set(rows)) < len(rows):
            check.complain((*where, "rows"), "names a row twice")


def _named_rows(predicate: Section) -> Iterator[tuple[str, list[str]]]:
    if not isinstance(predicate, Monotone):
        yield "row", [predicate.row]  # type: ignore[attr-defined]
    if isinstance(predicate, Compares):
        yield "than", predicate.than
    if isinstance(predicate, BestAt | Monotone):
        yield "rows", predicate.rows
