"""An experiment's table as data: each cell with its values per seed, its state, its rank, and the runs it came from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from star.report.evidence import Evidence
from star.report.method import judge_by
from star.report.notes import notes_of
from star.report.published import row_for
from star.report.samples import Samples
from star.report.stats import Interval, Sample, half_interval, holm, kendall
from star.spec.experiment import Experiment, Variant
from star.spec.reporting import Column, TableSpec

INCEPTION_TITLES = {"FD": "FID", "sFD": "sFID"}


@dataclass
class Difference:
    """A row's difference to a baseline row under one column."""

    found: Interval
    p: float | None
    """p of no difference, adjusted after Holm for all comparisons of the column."""
    told: str
    """What it was judged by in place of what the experiment asks for, and why; empty if it was not."""


@dataclass
class Cell:
    """The content of one row under one column."""

    text: str | None = None
    """Text of a column that is not measured."""
    numbers: Samples | None = None
    published: float | str | None = None
    rank: int | None = None
    """1 for the best of its column, 2 for the second best; values that print the same have the same rank."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """Label of a baseline row -> difference to it."""
    scale: float = 1.0
    """Factor from the tracked to the printed value."""

    @property
    def values(self) -> list[float]:
        """Values scaled as they are printed, one per seed that has one."""
        return [value * self.scale for value in self.numbers.values] if self.numbers else []

    @property
    def scorings(self) -> set[str]:
        """The ways in which the images behind the values were scored."""
        return self.numbers.scorings if self.numbers else set()

    @property
    def mean(self) -> float | None:
        """Mean over seeds, scaled as it is printed; None without values."""
        return fmean(self.values) if self.values else None

    @property
    def state(self) -> str:
        """Why the first missing seed has no value; empty if no seed is missing."""
        return next(iter(self.numbers.missing.values()), "") if self.numbers else ""

    @property
    def seeds(self) -> int:
        """Number of seeds, with a value or missing."""
        return len(self.values) + len(self.numbers.missing) if self.numbers else 0

    def spread(self, kind: str) -> float | None:
        """Sample standard deviation over seeds (`std`) or half the 95% t interval; None for fewer than two values."""
        if len(self.values) < 2:
            return None
        return stdev(self.values) if kind == "std" else half_interval(self.values)


@dataclass
class Row:
    """One line of a table."""

    label: str
    group: str | None
    paper_only: bool
    cells: list[Cell]


@dataclass
class Agreement:
    """Kendall's tau between a column's measured and published values, over `rows` rows."""

    title: str
    tau: float
    rows: int


@dataclass
class Table:
    """A table: columns, rows, and the notes below it."""

    experiment: Experiment
    columns: list[Column]
    """The experiment's columns; Frechet distances of Inception features are titled FID and sFID."""
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    limits: list[tuple[str, list[str]]] = field(default_factory=list)
    """What distances are to be read by, such as those of the tokenizer's reconstructions: words, and a text per column."""

    @property
    def spec(self) -> TableSpec:
        """The layout of the table, as the experiment's file describes it."""
        assert self.experiment.spec.table is not None
        return self.experiment.spec.table


def build_table(evidence: Evidence, spread: str | None = None) -> Table:
    """Build the table of an experiment from what is tracked.

    Args:
        spread: `std` or `interval`; None for the experiment's own choice.
    """
    experiment = evidence.experiment
    layout = experiment.spec.table
    assert layout is not None
    if spread is not None:
        spec = experiment.spec.model_copy(update={"table": layout.model_copy(update={"spread": spread})})
        experiment = replace(experiment, spec=spec)
    rows = [
        Row(
            variant.label,
            variant.row.group,
            not variant.runs,
            [_cell(column, variant, evidence, row_for(experiment, variant) or {}) for column in layout.columns],
        )
        for variant in experiment.variants
    ]
    for i, column in enumerate(layout.columns):
        rank(column, [row.cells[i] for row in rows])
    _compare(rows, evidence, layout)
    table = Table(experiment, [_named(column, experiment) for column in layout.columns], rows)
    table.limits = limits_of(evidence, table)
    table.notes += notes_of(evidence, table)
    return table


def limits_of(evidence: Evidence, table: Table) -> list[tuple[str, list[str]]]:
    """Lines below a table: words, and for each column the number that its values are to be read by, or an empty text."""
    lines: dict[str, list[str]] = {}
    for stage in evidence.experiment.spec.pipeline.values():
        for metric, pairs in stage.limits.items():
            shown = any(column.metric == metric for column in table.columns)
            for words, limit in pairs if shown else ():
                found = {value for row in table.rows for value in evidence.numbers(row.label, limit).values}
                cells = [_ends(found, column) if column.metric == metric else "" for column in table.columns]
                before = lines.get(words, [""] * len(cells))
                lines[words] = [new or old for new, old in zip(cells, before, strict=True)]
    return [(words, cells) for words, cells in lines.items() if any(cells)]


def _ends(values: Collection[float], column: Column) -> str:
    """The least and the largest value as a column prints them; empty if there are none."""
    if not values:
        return ""
    scaled = [value * column.scale for value in values]
    return " to ".join(dict.fromkeys(f"{end:.{column.digits}f}" for end in (min(scaled), max(scaled))))


def agreements(table: Table) -> list[Agreement]:
    """Kendall's tau between measured and published values, for each column with at least three pairs."""
    found = []
    for i, column in enumerate(table.columns):
        both = [
            (cell.mean, cell.published, cell)
            for cell in (row.cells[i] for row in table.rows)
            if cell.mean is not None and isinstance(cell.published, int | float)
        ]
        pairs = [(mean, published) for mean, published, _ in both]
        is_alike = len({scoring for _, _, cell in both for scoring in cell.scorings}) <= 1
        tau = kendall([a for a, _ in pairs], [b for _, b in pairs]) if is_alike else None
        if tau is not None:
            found.append(Agreement(column.title, tau, len(pairs)))
    return found


def _named(column: Column, experiment: Experiment) -> Column:
    """Rename a Frechet distance to FID or sFID if all rows use Inception's features, and only then."""
    extractors = {run.metric("{extractor}") for variant in experiment.variants for run in variant.runs}
    title = INCEPTION_TITLES.get(column.title) if extractors == {"inception"} else None
    measured = column.metric is not None and column.metric.endswith("frechet_distance")
    return column.model_copy(update={"title": title}) if title and measured else column


def _cell(column: Column, variant: Variant, evidence: Evidence, published: dict[str, Any]) -> Cell:
    beside = published.get(column.published) if column.published else None
    if column.metric is None:
        return Cell(text=_text(column, variant, beside))
    if not variant.runs:
        return Cell(published=beside)
    return Cell(numbers=evidence.numbers(variant.label, column.metric), published=beside, scale=column.scale)


def _text(column: Column, variant: Variant, published: object) -> str:
    if column.label:
        return variant.label
    if column.cell is not None:
        return str(variant.row.cells.get(column.cell, ""))
    if column.parameters:
        run = next(iter(variant.runs), None)
        count = None if run is None or not run.has_seed else run.num_parameters
        return str(published or "") if count is None else _count(count)
    assert column.spec is not None
    counts = not variant.runs or (variant.is_varied(column.spec) and variant.runs[0].has(column.spec))
    value = variant.value(column.spec) if counts else "-"
    if column.check and counts:
        return "✓" if value else ""
    return "" if value is None else str(value)


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if number >= size / 10:
            return f"{number / size:.3g}{unit}"
    return f"{number / 1e3:.3g}K"


def rank(column: Column, cells: list[Cell]) -> None:
    """Rank the best and second best printed values of a column; values that print the same share a rank.

    Nothing is ranked if the cells were scored in different ways, or if fewer than two have a value.
    """
    if column.better is None or len({scoring for cell in cells for scoring in cell.scorings}) > 1:
        return
    printed = [None if cell.mean is None else round(cell.mean, column.digits) for cell in cells]
    order = sorted({value for value in printed if value is not None}, reverse=column.better == "higher")
    if sum(value is not None for value in printed) < 2:
        return
    for cell, value in zip(cells, printed, strict=True):
        cell.rank = next((place for place, best in enumerate(order[:2], 1) if value == best), None)


def _compare(rows: list[Row], evidence: Evidence, layout: TableSpec) -> None:
    """Set the differences to baseline rows, column by column, and which of them are beyond doubt together."""
    labels = layout.baselines
    by_label = {row.label: row for row in rows}
    for i, column in enumerate(layout.columns):
        made: list[Difference] = []
        for place, baseline in enumerate(by_label[label] for label in labels if label in by_label):
            # of two baselines the second minus the first says all, and counts as one comparison
            compared = (row for row in rows if row.label not in labels[: place + 1])
            for row in (row for row in compared if _comparable(row.cells[i], baseline.cells[i])):
                assert column.metric is not None
                samples = [_sample(1.0, row, i), _sample(-1.0, baseline, i)]
                judge = judge_by(evidence.experiment.spec.interval, samples, evidence.block(row.label, column.metric))
                found = Difference(judge.interval().times(row.cells[i].scale), judge.p(), judge.told)
                row.cells[i].differences[baseline.label] = found
                made.append(found)
        for one, p in zip(made, holm([one.p for one in made]), strict=True):
            one.p = p


def _comparable(cell: Cell, other: Cell) -> bool:
    return bool(cell.values and other.values) and len(cell.scorings | other.scorings) <= 1


def _sample(weight: float, row: Row, column: int) -> Sample:
    numbers = row.cells[column].numbers
    assert numbers is not None
    return Sample(weight, numbers.values, numbers.seeds, row.label)
