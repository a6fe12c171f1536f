"""How much varies over an experiment's seeds: the part of a report that says what its intervals rest on."""

from __future__ import annotations

from statistics import median

from star.report.block import some_pairs
from star.report.evidence import Evidence
from star.report.grid import Grid, Head, Line, Mark
from star.report.method import METHODS, judge_by
from star.report.stats import Sample
from star.report.table import Table
from star.spec.reporting import Column


def over_seeds(evidence: Evidence, table: Table) -> Grid | None:
    """For each measured column: how its rows go together over seeds, whether they spread equally, what methods would give.

    None where no column has two rows with two seeds each.
    """
    grid = Grid(
        [
            Head("over seeds", numeric=False),
            Head("rows' correlation"),
            Head("equal spread, p"),
            *(Head(f"± of a difference, {method}") for method in METHODS),
        ]
    )
    for column in table.columns:
        line = _line(evidence, table, column) if column.metric is not None else None
        if line is not None:
            grid.lines.append(line)
    return grid if grid.lines else None


def _line(evidence: Evidence, table: Table, column: Column) -> Line | None:
    assert column.metric is not None
    rows = [row for row in table.rows if not row.paper_only]
    samples = [_sample(evidence, row.label, column.metric) for row in rows]
    told = [sample for sample in samples if len(sample.values) > 1]
    if len(told) < 2:
        return None
    block = evidence.block(told[0].row, column.metric)
    halves = []
    for method in METHODS:
        found = []
        for first, second in some_pairs([sample for sample in told if sample.row in block.values]):
            pair = [first, Sample(-1.0, second.values, second.seeds, second.row)]
            judge = judge_by(method, pair, block)
            interval = judge.interval()
            if judge.method == method and interval.low is not None and interval.high is not None:
                found.append((interval.high - interval.low) / 2 * column.scale)
        halves.append(f"{median(found):.{column.digits}f}" if found else "-")
    correlation = "-" if block.correlation is None else f"{block.correlation:+.2f}"
    equal = "-" if block.equal_spread is None else f"{block.equal_spread:.2g}"
    return Line([Mark(column.title), Mark(correlation), Mark(equal), *map(Mark, halves)])


def _sample(evidence: Evidence, row: str, metric: str) -> Sample:
    numbers = evidence.numbers(row, metric)
    return Sample(1.0, numbers.values, numbers.seeds, row)
